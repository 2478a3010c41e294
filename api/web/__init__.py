"""
HTTP in general: routing, parsing, authentication, problems, limits and waiting.

No module here imports a noun. The layers of these modules stand in `pyproject.toml`.
"""
