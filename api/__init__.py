"""
The HTTP side: parses, authenticates, accepts, and answers; never changes a resource or a request.

One file for each noun; `app.create_app` puts them together, `server.serve` serves them. May be imported by the
command line alone. Imports `processor`, and of `workers` the doorbell.
"""

from api.app import create_app, openapi_document

__all__ = ["create_app", "openapi_document"]
