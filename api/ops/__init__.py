"""
Health and metrics of one API process.
"""
