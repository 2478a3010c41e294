"""
The domain and all SQL of Teller: what is asked, decided, taken and given back.

Imports neither Flask nor Dramatiq. `teller`, `api`, `lab` and `workers` import it, and it imports none of them.
"""
