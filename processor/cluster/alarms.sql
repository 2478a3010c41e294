-- Reasons why workers do not work: backends of other roles, work that is nowhere, a Redis without notifications.

-- blockers --
-- Backends of other roles that hold the lock of a partition, or that a worker waits for. A prepared transaction has no
-- process. The partition is null where another lock is waited for.
WITH held AS MATERIALIZED (
    SELECT pid, objid::integer AS partition
      FROM pg_locks
     WHERE locktype = 'advisory'
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND classid::bigint = %(lock_class)s
       AND objsubid = 2
       AND granted
     UNION
    SELECT blocker, NULL
      FROM pg_locks l
      JOIN pg_stat_activity waiting ON waiting.pid = l.pid AND waiting.usename = current_user
     CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS blocker
     WHERE NOT l.granted
       AND l.waitstart < clock_timestamp() - make_interval(secs => %(waited_seconds)s)
)
SELECT coalesce(held.pid, 0), coalesce(a.usename, 'a prepared transaction'), coalesce(a.application_name, ''),
       array_agg(held.partition ORDER BY held.partition)
  FROM held
  LEFT JOIN pg_stat_activity a ON a.pid = held.pid
 WHERE a.usename IS DISTINCT FROM current_user
 GROUP BY 1, 2, 3
 ORDER BY 1;

-- note_locked --
INSERT INTO alarms (code, partition, detail)
SELECT 'locked', partition, %(detail)s
  FROM unnest(%(partitions)s::smallint[]) AS partition
    ON CONFLICT (code, partition) DO UPDATE SET detail = excluded.detail, seen_at = clock_timestamp();

-- note_redis --
INSERT INTO alarms (code, partition, detail)
VALUES ('redis', NULL, %(detail)s)
    ON CONFLICT (code, partition) DO UPDATE SET detail = excluded.detail, seen_at = clock_timestamp();

-- delete_nowhere --
-- Deletes rows in partitions that do not exist, some at a time, and raises the alarm. Returns their number.
WITH outside AS (
    (SELECT ctid FROM inbox WHERE partition < 0 LIMIT %(limit)s)
     UNION ALL
    (SELECT ctid FROM inbox WHERE partition >= (SELECT partitions FROM installation) LIMIT %(limit)s)
), gone AS (
    DELETE FROM inbox WHERE ctid = ANY(ARRAY(SELECT ctid FROM outside)) RETURNING 1
), counted AS (
    SELECT count(*) AS rows FROM gone
), noted AS (
    INSERT INTO alarms (code, partition, detail)
    SELECT 'misplaced', NULL, rows || ' rows were in partitions that do not exist'
      FROM counted
     WHERE rows > 0
        ON CONFLICT (code, partition) DO UPDATE SET detail = excluded.detail, seen_at = clock_timestamp()
)
SELECT rows FROM counted;

-- current --
-- The alarms of the last seconds, or of the last hour where the cause is removed as soon as it is seen.
SELECT DISTINCT code
  FROM alarms
 WHERE seen_at > clock_timestamp() - CASE code WHEN 'misplaced' THEN interval '1 hour'
                                               WHEN 'redis' THEN make_interval(secs => %(redis_seconds)s)
                                               ELSE make_interval(secs => %(fresh_seconds)s) END
 ORDER BY code;
