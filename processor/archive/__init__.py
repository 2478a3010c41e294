"""
The archive: files for finished requests that leave the database. `files` has their format, `leaving` the removal.
"""
