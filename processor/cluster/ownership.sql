-- The owner of each partition, and the partitions that have work. All times are of the database's clock, because the
-- clocks of hosts differ. A lease is valid until alive_until; the partitions of a worker with an expired lease are free.
-- Each act is a single statement, so a worker that is suspended between two of them holds no lock.

-- join --
-- Registers a worker process, at its start or after its lease expired.
INSERT INTO workers (id, host, pid, alive_until)
VALUES (%(worker)s, %(host)s, %(pid)s, clock_timestamp() + make_interval(secs => %(lease_seconds)s));

-- heartbeat --
-- Renews a lease that has not expired. Returns whether it was renewed, the number of valid leases, the worker's
-- partitions, and the number of free ones. The last column is the seconds until the next lease of another worker expires.
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
-- Takes up to `most` free partitions. If two workers claim at once, the UPDATE of the second one finds another owner
-- than its SELECT did, and skips the row.
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
-- Ends the backends of our own role that hold the locks of these partitions, or wait for them. A worker that is
-- suspended in the middle of a batch would otherwise keep its lock. The backends are found first, in a materialized
-- step: as a condition, the planner could call pg_terminate_backend for other backends too.
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
-- Gives partitions back; they are free at once.
UPDATE ownership
   SET worker_id = NULL, since = clock_timestamp()
 WHERE worker_id = %(worker)s
   AND partition = ANY(%(partitions)s::smallint[]);

-- leave --
-- Removes a worker; its partitions are free at once.
WITH gone AS (DELETE FROM workers WHERE id = %(worker)s)
UPDATE ownership
   SET worker_id = NULL, since = clock_timestamp()
 WHERE worker_id = %(worker)s
RETURNING partition;

-- delete_expired --
-- Deletes workers whose lease expired long ago. Partitions that still name them are free with or without the row.
DELETE FROM workers
 WHERE alive_until < clock_timestamp() - make_interval(secs => %(after_seconds)s);

-- forget --
-- Removes worker processes that ended without `leave`. Their partitions are free at once, before the lease expires.
WITH gone AS (
    DELETE FROM workers
     WHERE host = %(host)s
       AND pid = ANY(%(pids)s::integer[])
    RETURNING id
)
UPDATE ownership o
   SET since = clock_timestamp()
  FROM gone
 WHERE o.worker_id = gone.id;

-- presence --
-- The number of free partitions, and the process ids of the workers of a host with a valid lease.
SELECT (SELECT count(*)
          FROM ownership o
         WHERE NOT EXISTS (SELECT FROM workers w WHERE w.id = o.worker_id AND w.alive_until > clock_timestamp())),
       ARRAY(SELECT pid FROM workers WHERE host = %(host)s AND alive_until > clock_timestamp());

-- hidden --
-- Those of the given partitions that have rows below their low-water mark, which no batch looks at.
SELECT p.id
  FROM partitions p
 WHERE p.id = ANY(%(partitions)s::smallint[])
   AND EXISTS (SELECT FROM inbox WHERE inbox.partition = p.id AND seq <= p.low_water)
 ORDER BY p.id;

-- neglected --
-- Those of the given partitions that are paused, or whose oldest work is older and that had no batch for as long.
SELECT p.id, pauses.partition IS NOT NULL AS is_paused
  FROM partitions p
  LEFT JOIN pauses ON pauses.partition = p.id
  LEFT JOIN LATERAL (SELECT created_at
                       FROM inbox
                      WHERE inbox.partition = p.id
                        AND seq > p.low_water
                      ORDER BY seq
                      LIMIT 1) oldest ON true
 WHERE p.id = ANY(%(partitions)s::smallint[])
   AND (pauses.partition IS NOT NULL
        OR (p.drained_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s)
            AND oldest.created_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s)))
 ORDER BY oldest.created_at, p.id;

-- list --
-- All partitions as operators see them. An owner is shown while its lease is valid, and the holder of a lock while it
-- is seen.
SELECT p.id, w.host, w.pid, coalesce(i.backlog, 0), extract(epoch FROM clock_timestamp() - i.oldest)::float8,
       EXISTS (SELECT FROM pauses WHERE pauses.partition = p.id),
       (SELECT min(detail)
          FROM alarms a
         WHERE a.code = 'locked'
           AND coalesce(a.partition, p.id) = p.id
           AND a.seen_at > clock_timestamp() - make_interval(secs => %(fresh_seconds)s))
  FROM partitions p
  JOIN ownership o ON o.partition = p.id
  LEFT JOIN workers w ON w.id = o.worker_id AND w.alive_until > clock_timestamp()
  LEFT JOIN (SELECT partition, count(*) AS backlog, min(created_at) AS oldest FROM inbox GROUP BY partition) i
         ON i.partition = p.id
 ORDER BY p.id;
