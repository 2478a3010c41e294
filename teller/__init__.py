"""
The `teller` command: the composition root, the only place that imports from everywhere.

`root` lists the commands, `commands` has a module for each noun, `up` runs the whole system in the foreground,
`embedded` starts PostgreSQL and Valkey. Nothing imports from here.
"""
