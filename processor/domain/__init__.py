"""
The pure part of Teller: the model, the ledger, the partitioning, and the kinds of requests with their rules.

Imports nothing but the standard library. Every other package of `processor` may import it.
"""
