"""
What people do to requests and partitions: each operation once, with its check, its transaction and its audit line.

HTTP, console and command line call it and only translate.
"""
