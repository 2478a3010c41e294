"""
The nouns of the API, one module each: routes, models of bodies and answers, problems.
"""
