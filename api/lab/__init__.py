"""
The race lab as a page at /lab: one race without and one with protection, on real tables, drawn step by step.

`runs` runs one race at a time, `timelines` computes the drawing, and `application` is the page. It uses the styles of
the console. `api.app` imports `application` alone.
"""
