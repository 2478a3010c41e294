"""
The formats of `teller export`. Pure: entries and balances as lines of text.
"""
