"""
Checks of this repository that no published linter offers.

Each is a module that `make lint` runs. It imports the standard library alone.
"""
