"""
What is measured, and against what. Each module is run by `python -m bench.<name>`; none is imported by Teller.
"""
