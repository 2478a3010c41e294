"""
The domain and all SQL of Teller: what is asked, decided, taken and given back.

Knows neither Flask nor Dramatiq. May be imported by `api` and `workers`, and imports neither
(`processor.cli`, the composition root, is the one exception).
"""
