"""
The `teller` command: the composition root, the only place that may import from everywhere.

`root` has the list of commands, one module each; `up` and `supervisor` are the whole system in the foreground.
"""

from processor.cli.root import main

__all__ = ["main"]
