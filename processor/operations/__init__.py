"""
The operations on requests, partitions and deliveries: each once, with its check, its transaction and its audit line.

HTTP, console and command line call them and only translate.
"""
