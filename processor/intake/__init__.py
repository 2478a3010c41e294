"""
Accepting: requests and commands become durable here, and are never decided here.
"""
