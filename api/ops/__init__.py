"""
Health and metrics.
"""
