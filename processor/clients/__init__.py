"""
The belongings of a client: keys, console sessions, accounts, webhooks and one-time codes.
"""
