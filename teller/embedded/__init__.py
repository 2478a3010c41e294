"""
The embedded servers: PostgreSQL and Valkey from wheels, as children of this process, under TELLER_HOME.

`servers.serve` is the way in; `keys` is the file of generated secrets. They need no DATABASE_URL or REDIS_URL, run
as root or as a user, die with the process that started them, and come back with everything after a kill -9.
"""
