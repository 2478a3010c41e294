"""
The promises of Teller under simultaneous requests, through HTTP against running processes.

One Teller (`scenario_stack.py`) runs for all scenarios. Many connections (`crowd.py`) send at the same instant, and
ledger assertions (`assertions.py`) follow. Each scenario has SCENARIO_ROUNDS rounds, in one mode after the other.
"""
