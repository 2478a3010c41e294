"""
The embedded servers: PostgreSQL and Valkey from wheels, as children of this process, under TELLER_HOME.

`servers.serve` is the entry point; `keys` is the file of generated secrets. The servers run as root or as an ordinary
user. They end with the process that started them, and lose nothing after a kill -9.
"""
