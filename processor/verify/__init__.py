"""
`teller verify`: re-derives every balance, hold, count and status from the entries.
"""
