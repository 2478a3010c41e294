"""
The commands of `teller`, one module for each noun.
"""
