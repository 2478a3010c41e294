"""
The checks of `teller check`: one module for each server or place that the promises rest on.
"""
