"""
The files that `teller import` reads: CSV and JSON lines.
"""
