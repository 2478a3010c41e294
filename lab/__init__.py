"""
The race lab: the same race again and again, each time with another protection, against a real database.

`strategies` are what programs do, `arena` lets many users do it at the same instant, `tellers_queue` is Teller's own
way through the real intake, `paused_holder` shows how a lock with an expiry fails, `endpoint` races against any URL.
`outcomes` is pure: what came of a race, and when it happened. `kept` keeps results for the page.

Touches tables of its own (`lab_…`) and, for Teller's way, asks like any client. The command line and the page use it.
"""
