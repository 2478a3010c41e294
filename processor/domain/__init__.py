"""
The pure middle: model, ledger, partitioning and the rules of each kind of request.

Imports the standard library alone. Everything in `processor` may import it.
"""
