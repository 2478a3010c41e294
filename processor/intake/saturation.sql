-- The backlog of each partition, for the thread that measures it.

-- read_backlogs --
-- Reads the whole inbox.
SELECT partition, count(*)
  FROM inbox
 GROUP BY partition;

-- estimate_inbox --
-- The largest possible number of inbox rows, from the size of the table.
SELECT pg_relation_size('inbox') / %(row_bytes)s;
