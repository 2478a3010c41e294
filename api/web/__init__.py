"""
HTTP in general: routing, parsing, authentication, problems, waiting. Knows no noun.
"""
