-- How much waits: for a thread of its own, off the request path.

-- read_backlogs --
-- How much waits in each partition that has work. Reads the whole inbox: for the gauge's own thread.
SELECT partition, count(*)
  FROM inbox
 GROUP BY partition;

-- estimate_inbox --
-- How many inbox rows there can be at the most, without reading them: pages times the rows that fit in one.
SELECT pg_relation_size('inbox') / %(row_bytes)s;
