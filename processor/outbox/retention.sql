-- The retention of deliveries and attempts. Each statement looks at a part of a table, in the order of its primary key,
-- and removes the rows of it that are old.

-- remove_deliveries --
-- Deliveries that were sent, or given up. Returns the last row that was looked at (NULL: there was none), whether it was
-- old, and the number of rows that were removed.
WITH looked AS MATERIALIZED (
    SELECT id, created_at < now() - make_interval(days => %(days)s) AS is_old
      FROM deliveries
     WHERE id > %(after)s
     ORDER BY id
     LIMIT %(limit)s
), gone AS (
    DELETE FROM deliveries d
     USING looked
     WHERE d.id = looked.id
       AND looked.is_old
       AND d.status <> 'pending'
    RETURNING 1
)
SELECT max(id), (SELECT is_old FROM looked ORDER BY id DESC LIMIT 1), (SELECT count(*) FROM gone)
  FROM looked;

-- remove_attempts --
-- Calls of gateways. The id of a request has its time, so the oldest requests come first.
WITH looked AS MATERIALIZED (
    SELECT request_id, leg, token, started_at < now() - make_interval(days => %(days)s) AS is_old
      FROM attempts
     WHERE request_id > %(after)s
       AND request_id < %(bound)s
     ORDER BY request_id, leg, token
     LIMIT %(limit)s
), gone AS (
    DELETE FROM attempts a
     USING looked
     WHERE (a.request_id, a.leg, a.token) = (looked.request_id, looked.leg, looked.token)
       AND looked.is_old
    RETURNING 1
)
SELECT (SELECT request_id FROM looked ORDER BY request_id DESC LIMIT 1), true, (SELECT count(*) FROM gone);
