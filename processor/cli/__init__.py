"""
The `teller` command: the composition root, the only place that may import from everywhere.
"""
