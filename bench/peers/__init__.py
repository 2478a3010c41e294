"""
The alternatives that a user could choose: one file for each, and their shared parts.

The Python and JavaScript files beside this one are programs that run in an environment of their own, `bench/.peers`,
which `install.py` makes from the pinned `requirements.txt` and `package-lock.json`. They import nothing of Teller,
and Teller nothing of them. Newer versions: `uv pip compile requirements.in --universal --generate-hashes`, and
`npm install --omit-lockfile-registry-resolved`. `flask_row_lock.py` and `pgbench.py` need only what Teller has.
"""
