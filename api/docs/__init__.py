"""
The OpenAPI document, the page `/docs`, and the pages that explain problems.
"""
