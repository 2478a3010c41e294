"""
One batch: take the inbox rows of a partition, decide them in memory, write them as sets, in one transaction.

`run` is the transaction, `snapshot` what is read, `worksheet` the pure decisions, `store` the SQL around them.
"""
