"""
Access to PostgreSQL: connections and pools, named statements, the schema and its migrations, packed arrays.

All modules of `processor` that run SQL import it; `api` and `workers` use connections only through it.
"""
