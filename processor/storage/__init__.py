"""
The way to PostgreSQL: connections and pools, named statements, the schema and its migrations, packed arrays.

Everything in `processor` that runs SQL imports it; `api` and `workers` use connections only through it.
"""
