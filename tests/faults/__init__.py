"""
Anybody may kill anything at any time, and a program proves that nothing was lost, doubled or overtaken.

`history.py` is what a run leaves behind, `checker.py` decides whether it is right, `model.py` says what is right.
`kinds.py` and `machine.py` are the faults, `run.py` and `system.py` what they are made to, `__main__.py` makes one
after the other (`make faults`). The simulator does the same to the pure parts, in memory. Nothing of
`processor/domain/rules`, `ledger` or `worksheet` is used to judge.
"""
