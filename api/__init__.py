"""
The HTTP side. It checks input, authenticates, accepts requests and answers, and never changes a resource or request.

`v1` has one module for each noun, `web` what they share. `app.create_app` joins them and `server.serve` serves them.
Only the command line imports this package. It imports `processor`, `lab` and `workers.doorbell`.
"""

from api.app import create_app, openapi_document

__all__ = ["create_app", "openapi_document"]
