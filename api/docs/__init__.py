"""
The OpenAPI document, `/docs` and the pages that explain problems.
"""
