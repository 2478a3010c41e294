"""
Anybody may kill anything at any time, and a program proves that nothing was lost, doubled or overtaken.

`history.py` is what a run leaves behind, `checker.py` decides whether it is right, `model.py` says what is right.
`plan.py` and `runner.py` make the faults (`make faults`), `system.py` is what they are made to. The simulator does
the same to the pure parts, in memory. Nothing of `processor/rules`, `ledger` or `worksheet` is used to judge.
"""
