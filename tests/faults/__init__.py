"""
Runs of a whole system under faults, with a proof that nothing was lost, doubled or overtaken.

`history.py` is the record of a run. `checker.py` decides whether it is right, and `model.py` has the right
results. `kinds.py` and `machine.py` are the faults. `run.py` and `system.py` are the system that they are
injected into. `__main__.py` injects one after the other (`make faults`). The simulator does the same to the
pure parts, in memory. The judgement uses nothing of `processor/domain/rules`, `ledger` or `worksheet`.
"""
