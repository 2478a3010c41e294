"""
The race lab as a page, at /lab: the same race without and with protection, run for real, drawn step by step.

`runs` lets one race at a time happen, `timelines` works out where everything is drawn, `application` is the page.
It looks like the console, whose styles it uses; whoever builds the API imports `application` alone.
"""
