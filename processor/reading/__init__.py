"""
Reads for the API, the console and the command line. Nothing here writes.
"""
