"""
What must never happen: each story against the running stack, through HTTP, all requests started at the same instant.

One system for all stories (`stack.py`), a crowd of connections (`crowd.py`), and what must be so afterwards
(`books.py`). A story is told SCENARIO_ROUNDS times, each time in another way.
"""
