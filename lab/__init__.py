"""
The race lab: the same race with one protection after another, against a real database.

strategies      the ways in which programs take a piece
arena           starts many users at the same instant
tellers_queue   Teller's strategy, through the real intake
paused_holder   shows how a lock with an expiry fails
endpoint        races against any URL
outcomes        the result of a race, with its steps (pure)
stored_results  keeps results for the page

The lab uses its own tables (`lab_…`). Teller's strategy makes requests like any client. The command line and the page
`/lab` use this package. It imports `processor` alone.
"""
