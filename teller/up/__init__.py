"""
`teller up`: the whole system in the foreground, with a supervisor.
"""
