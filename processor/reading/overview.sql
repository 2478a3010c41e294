-- The overview of the console. Each count ends at a limit, and each row is found by an index.

-- read_badges --
-- Each count is in the order of its index. Without an order the planner may scan the table, in vain.
SELECT (SELECT count(*) FROM (SELECT FROM decisions WHERE current AND status = 'failed'
                               ORDER BY request_id LIMIT %(most)s) AS failed),
       (SELECT count(*) FROM (SELECT FROM decisions WHERE current AND stage = 'awaiting_approval'
                               ORDER BY request_id LIMIT %(most)s) AS waiting);

-- read_partitions --
-- Each partition with its progress, its backlog up to a limit, and its owner. A request without its first decision has a
-- row with the verb decide, so decided and undecided together are all accepted requests.
SELECT p.id, p.sequence, w.host, w.pid, w.alive_until > clock_timestamp(), i.backlog, i.undecided,
       extract(epoch FROM clock_timestamp() - oldest.created_at)::float8, x.since IS NOT NULL
  FROM partitions p
  JOIN ownership o ON o.partition = p.id
  LEFT JOIN workers w ON w.id = o.worker_id
  LEFT JOIN pauses x ON x.partition = p.id
 CROSS JOIN LATERAL (SELECT count(*) AS backlog, count(*) FILTER (WHERE verb = 'decide' AND leg = 0) AS undecided
                       FROM (SELECT verb, leg FROM inbox WHERE inbox.partition = p.id
                              ORDER BY seq LIMIT %(most)s) AS first_ones) AS i
  LEFT JOIN LATERAL (SELECT created_at FROM inbox WHERE inbox.partition = p.id ORDER BY seq LIMIT 1) AS oldest ON true
 ORDER BY p.id;

-- count_held --
-- The number of effects without an answer, up to a limit, and the time of the database.
SELECT (SELECT count(*) FROM (SELECT FROM effects WHERE due_at IS NOT NULL
                               ORDER BY gateway, client_id, due_at LIMIT %(most)s) AS held),
       clock_timestamp();

-- read_pauses --
-- The first pauses. The reason stands in the audit: its line was written in the transaction of the pause, after it.
SELECT x.partition, x.since, x.actor, a.reason
  FROM pauses x
  LEFT JOIN LATERAL (SELECT reason FROM audit
                      WHERE action = 'partition_paused' AND at >= x.since AND detail @> jsonb_build_object('partition', x.partition)
                      ORDER BY action, at, id LIMIT 1) AS a ON true
 WHERE %(partition)s::smallint IS NULL OR x.partition = %(partition)s
 ORDER BY x.since, x.partition
 LIMIT %(limit)s;

-- read_failing_webhooks --
-- Those that have failed for the longest time, and their number up to a limit.
SELECT f.id, f.client_id, f.url, f.failing_since, f.failing_tries, f.failing_error, count(*) OVER ()
  FROM (SELECT id, client_id, url, failing_since, failing_tries, failing_error FROM webhooks
         WHERE failing_since IS NOT NULL AND disabled_at IS NULL
         ORDER BY failing_since, id LIMIT %(most)s) AS f
 ORDER BY f.failing_since, f.id
 LIMIT %(limit)s;

-- read_partition --
SELECT p.id, p.sequence, p.drained_at, w.host, w.pid, w.alive_until, w.alive_until > clock_timestamp(), o.since,
       x.since, x.actor,
       (SELECT count(*) FROM workers living WHERE living.alive_until > clock_timestamp()),
       (SELECT count(*) FROM (SELECT FROM inbox WHERE inbox.partition = p.id ORDER BY seq LIMIT %(most)s) AS first_ones)
  FROM partitions p
  JOIN ownership o ON o.partition = p.id
  LEFT JOIN workers w ON w.id = o.worker_id
  LEFT JOIN pauses x ON x.partition = p.id
 WHERE p.id = %(partition)s;

-- read_line --
-- The first rows of the inbox of a partition, up to a limit, by resource. `first` is the place of a resource's first row,
-- from 1. The last columns count all rows and all resources.
WITH line AS (
    SELECT row_number() OVER (ORDER BY i.seq) AS place, i.created_at, r.resource_id
      FROM (SELECT seq, request_id, created_at FROM inbox WHERE partition = %(partition)s
             ORDER BY seq LIMIT %(most)s) AS i
      JOIN requests r ON r.id = i.request_id
)
SELECT resource_id, count(*), min(place), min(created_at), (sum(count(*)) OVER ())::bigint, count(*) OVER ()
  FROM line
 GROUP BY resource_id
 ORDER BY count(*) DESC, resource_id
 LIMIT %(limit)s;

-- read_waiting_in_line --
-- The same rows for one resource (NULL: for all), the next row first, and their number.
SELECT place, verb, leg, created_at, request_id, kind, account, amount, resource_id, count(*) OVER ()
  FROM (SELECT row_number() OVER (ORDER BY i.seq) AS place, i.verb, i.leg, i.created_at, i.request_id, r.kind,
               r.account, r.amount, r.resource_id
          FROM (SELECT seq, verb, leg, request_id, created_at FROM inbox WHERE partition = %(partition)s
                 ORDER BY seq LIMIT %(most)s) AS i
          JOIN requests r ON r.id = i.request_id) AS line
 WHERE %(resource)s::text IS NULL OR resource_id = %(resource)s
 ORDER BY place
 LIMIT %(limit)s;

-- count_held_of --
-- Among the newest requests of a resource, those that wait for a gateway, and those that failed.
SELECT count(*) FILTER (WHERE d.stage = 'settling'), count(*) FILTER (WHERE d.status = 'failed')
  FROM (SELECT id FROM requests WHERE resource_id = %(resource)s ORDER BY id DESC LIMIT %(most)s) AS r
  JOIN decisions d ON d.request_id = r.id AND d.current AND (d.stage = 'settling' OR d.status = 'failed');

-- read_breaker --
SELECT open_until FROM gateways WHERE name = %(gateway)s AND ({is_unavailable});

-- read_balance --
-- The last entries of a resource, oldest first.
SELECT version, created_at, available, held
  FROM (SELECT version, created_at, available, held FROM entries WHERE resource_id = %(resource)s
         ORDER BY version DESC LIMIT %(limit)s) AS last_ones
 ORDER BY version;

-- find_resources --
SELECT {resource_columns}
  FROM resources
 WHERE id LIKE %(pattern)s
 ORDER BY id
 LIMIT %(limit)s;

-- find_by_key --
-- At most one request of each client.
SELECT {request_columns}
  FROM clients c
 CROSS JOIN LATERAL (SELECT * FROM requests r WHERE r.client_id = c.id AND r.idempotency_key = %(key)s LIMIT 1) AS r
  LEFT JOIN decisions d ON d.request_id = r.id AND d.current
 ORDER BY r.id DESC
 LIMIT %(limit)s;

-- find_by_account --
-- The newest requests of each client.
SELECT {request_columns}
  FROM clients c
 CROSS JOIN LATERAL (SELECT * FROM requests r WHERE r.client_id = c.id AND r.account = %(account)s
                      ORDER BY r.id DESC LIMIT %(limit)s) AS r
  LEFT JOIN decisions d ON d.request_id = r.id AND d.current
 ORDER BY r.id DESC
 LIMIT %(limit)s;
