-- Who drains which partition, and which partitions wait. All times are the database's own clock: hosts differ.
-- A worker lives while its alive_until is ahead; what a worker owns that lives no more is free to others.
-- What joins or leaves does so in single statements, so that a worker that is stopped in the middle
-- leaves no lock behind.

-- join --
-- A worker process begins, or begins anew after its lease ran out.
INSERT INTO workers (id, host, pid, alive_until)
VALUES (%(worker)s, %(host)s, %(pid)s, clock_timestamp() + make_interval(secs => %(lease_seconds)s));

-- heartbeat --
-- Renew the lease of a worker whose lease has not run out, and tell it what it must know: whether it lives,
-- how many live, what it owns, what nobody who lives owns, and the seconds until the next lease of another runs out.
WITH renewed AS (
    UPDATE workers
       SET alive_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
     WHERE id = %(worker)s
       AND alive_until > clock_timestamp()
    RETURNING id
), living AS MATERIALIZED (
    SELECT id, alive_until FROM workers WHERE alive_until > clock_timestamp()
)
SELECT EXISTS (SELECT FROM renewed),
       (SELECT count(*) FROM living),
       ARRAY(SELECT partition FROM ownership WHERE worker_id = %(worker)s),
       (SELECT count(*) FROM ownership o WHERE NOT EXISTS (SELECT FROM living WHERE living.id = o.worker_id)),
       (SELECT extract(epoch FROM min(alive_until) - clock_timestamp())::float8 FROM living WHERE id <> %(worker)s);

-- claim --
-- Take up to that many partitions which no living worker owns. Two that claim at once: the second one's
-- UPDATE finds another owner than the one it saw, and leaves the row.
WITH free AS (
    SELECT o.partition, o.worker_id AS previous
      FROM ownership o
     WHERE NOT EXISTS (SELECT FROM workers w WHERE w.id = o.worker_id AND w.alive_until > clock_timestamp())
     ORDER BY o.partition
     LIMIT %(most)s
)
UPDATE ownership o
   SET worker_id = %(worker)s, since = clock_timestamp()
  FROM free
 WHERE o.partition = free.partition
   AND o.worker_id IS NOT DISTINCT FROM free.previous
RETURNING o.partition, free.previous IS NOT NULL;

-- end_holders --
-- End the backends of our own role that hold, or wait for, the locks of these partitions: a worker that is
-- stopped in the middle of a batch would keep its lock for as long as it is stopped. Found first and ended
-- afterwards: among the conditions, the planner may call the ending for others as well.
WITH holders AS MATERIALIZED (
    SELECT DISTINCT l.pid
      FROM pg_locks l
      JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory'
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND l.classid::bigint = %(lock_class)s
       AND l.objid::bigint = ANY(%(partitions)s::bigint[])
       AND l.objsubid = 2
       AND a.usename = current_user
       AND l.pid <> pg_backend_pid()
)
SELECT pid, pg_terminate_backend(pid) FROM holders;

-- release --
-- Give partitions back: they are free at once.
UPDATE ownership
   SET worker_id = NULL, since = clock_timestamp()
 WHERE worker_id = %(worker)s
   AND partition = ANY(%(partitions)s::smallint[]);

-- leave --
-- A worker ends: all it owns is free at once, and it lives no more.
WITH gone AS (DELETE FROM workers WHERE id = %(worker)s)
UPDATE ownership
   SET worker_id = NULL, since = clock_timestamp()
 WHERE worker_id = %(worker)s
RETURNING partition;

-- bury --
-- Forget workers whose lease ran out long ago; what they still owned counts as unowned without their row, too.
DELETE FROM workers
 WHERE alive_until < clock_timestamp() - make_interval(secs => %(after_seconds)s);

-- forget --
-- A worker process of a host has ended without a word: what it owned is free at once, not only when its lease runs out.
DELETE FROM workers
 WHERE host = %(host)s
   AND pid = ANY(%(pids)s::integer[]);

-- presence --
-- How many partitions nobody who lives owns, and the process ids of the workers of a host that live.
SELECT (SELECT count(*)
          FROM ownership o
         WHERE NOT EXISTS (SELECT FROM workers w WHERE w.id = o.worker_id AND w.alive_until > clock_timestamp())),
       ARRAY(SELECT pid FROM workers WHERE host = %(host)s AND alive_until > clock_timestamp());

-- waiting --
-- Which of these partitions have work and may decide it.
SELECT p.id
  FROM partitions p
 WHERE p.id = ANY(%(partitions)s::smallint[])
   AND EXISTS (SELECT FROM inbox WHERE inbox.partition = p.id AND seq > p.low_water)
   AND NOT EXISTS (SELECT FROM pauses WHERE pauses.partition = p.id)
 ORDER BY p.id;

-- neglected --
-- Those among some partitions whose oldest work is older than that, and that had no batch for as long.
SELECT p.id
  FROM partitions p
 CROSS JOIN LATERAL (SELECT created_at
                       FROM inbox
                      WHERE inbox.partition = p.id
                        AND seq > p.low_water
                      ORDER BY seq
                      LIMIT 1) oldest
 WHERE p.id = ANY(%(partitions)s::smallint[])
   AND p.drained_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s)
   AND oldest.created_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s)
   AND NOT EXISTS (SELECT FROM pauses WHERE pauses.partition = p.id)
 ORDER BY oldest.created_at;

-- list --
-- Every partition as an operator sees it. An owner is shown while it lives.
SELECT p.id, w.host, w.pid, coalesce(i.backlog, 0), extract(epoch FROM clock_timestamp() - i.oldest)::float8,
       EXISTS (SELECT FROM pauses WHERE pauses.partition = p.id)
  FROM partitions p
  JOIN ownership o ON o.partition = p.id
  LEFT JOIN workers w ON w.id = o.worker_id AND w.alive_until > clock_timestamp()
  LEFT JOIN (SELECT partition, count(*) AS backlog, min(created_at) AS oldest FROM inbox GROUP BY partition) i
         ON i.partition = p.id
 ORDER BY p.id;
