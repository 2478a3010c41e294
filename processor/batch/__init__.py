"""
One batch: takes the inbox rows of a partition, decides them in memory, and writes them as sets, in one transaction.

`run` has the transaction, `snapshot` the rows that were read, `worksheet` the pure decisions, and `store` the SQL.
"""
