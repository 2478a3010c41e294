"""
One batch: takes the inbox rows of a partition, decides them in memory, and writes them as sets, in one transaction.

`run` has the transaction, `snapshot` the rows that were read, and `store` the SQL. `deciding` chooses the rule of a
row, `worksheet` carries its decision out in memory, and `changes` has what to write.
"""
