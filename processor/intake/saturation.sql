-- The backlog of each partition and the state of the standby, for the thread that measures both.

-- read_backlogs --
-- Reads the whole inbox.
SELECT partition, count(*)
  FROM inbox
 GROUP BY partition;

-- estimate_inbox --
-- The largest possible number of inbox rows, from the size of the table.
SELECT pg_relation_size('inbox') / %(row_bytes)s;

-- await_standby --
-- A commit waits for the standby only if it wrote something, and then for all that was written before. So this writes a
-- message without a reader.
SELECT CASE WHEN current_setting('synchronous_standby_names') <> ''
             AND current_setting('synchronous_commit') NOT IN ('off', 'local')
            THEN pg_logical_emit_message(true, 'teller', '')
       END;
