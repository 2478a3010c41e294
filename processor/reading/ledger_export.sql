-- The ledger of one snapshot, for files. Rows come in the order of resources, and each cursor reads a part at a time.

-- take_snapshot --
-- All later statements see one snapshot, and cannot write. No rule of time ends a long export.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL timezone = 'UTC';
SET LOCAL statement_timeout = 0;
SET LOCAL cursor_tuple_fraction = 1;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;

-- missing_resources --
SELECT asked.id
  FROM unnest(%(resources)s::text[]) AS asked(id)
 WHERE NOT EXISTS (SELECT FROM resources WHERE resources.id = asked.id)
 ORDER BY asked.id;

-- archived_until --
-- The last time at which an entry has left of these resources. Quantities before it are in the archive.
SELECT max(created_at)
  FROM checkpoints
 WHERE %(resources)s::text[] IS NULL OR resource_id = ANY(%(resources)s);

-- count --
-- The number of the last entry of each resource, less that of its last checkpoint, which bounds the entries that follow.
SELECT coalesce(sum(version - coalesce((SELECT max(c.version) FROM checkpoints c WHERE c.resource_id = resources.id), 0)),
                0)::bigint
  FROM resources
 WHERE %(resources)s::text[] IS NULL OR id = ANY(%(resources)s);

-- read_resources --
-- With the quantities before the first entry of the period and after its last one. Without a bound, these are those of the
-- last checkpoint or nothing, and the quantities of the resource itself.
SELECT r.id, r.kind, r.unit, r.decimals, r.created_at, coalesce(before.available, 0), coalesce(before.held, 0),
       CASE WHEN %(until)s::timestamptz IS NULL THEN r.available ELSE coalesce(after.available, 0) END,
       CASE WHEN %(until)s::timestamptz IS NULL THEN r.held ELSE coalesce(after.held, 0) END
  FROM resources r
  LEFT JOIN LATERAL (SELECT available, held, version
                       FROM entries
                      WHERE entries.resource_id = r.id
                        AND entries.created_at < %(since)s::timestamptz
                        AND entries.version > coalesce((SELECT max(c.version) FROM checkpoints c
                                                         WHERE c.resource_id = r.id), 0)
                      UNION ALL
                     (SELECT available, held, version
                        FROM checkpoints
                       WHERE checkpoints.resource_id = r.id
                       ORDER BY version DESC
                       LIMIT 1)
                      ORDER BY version DESC
                      LIMIT 1) AS before ON true
  LEFT JOIN LATERAL (SELECT available, held
                       FROM entries
                      WHERE entries.resource_id = r.id
                        AND entries.created_at < %(until)s::timestamptz
                      ORDER BY version DESC
                      LIMIT 1) AS after ON true
 WHERE (%(resources)s::text[] IS NULL OR r.id = ANY(%(resources)s))
   AND (%(until)s::timestamptz IS NULL OR r.created_at < %(until)s)
 ORDER BY r.id;

-- read_entries --
-- With the client whose account it is. A refund has the account of the request that it gives back. Entries before the last
-- checkpoint of a resource are those of requests that were open for long: their neighbours are in the archive.
SELECT e.resource_id, e.version, e.kind, e.request_id, o.client_id, e.account, e.amount, e.available, e.held, e.created_at
  FROM entries e
  LEFT JOIN (SELECT resource_id, max(version) AS version FROM checkpoints GROUP BY resource_id) AS c
       ON c.resource_id = e.resource_id
 CROSS JOIN LATERAL (SELECT coalesce(original.client_id, q.client_id) AS client_id
                       FROM requests q
                       LEFT JOIN requests original ON original.id = q.refund_of
                      WHERE q.id = e.request_id
                      LIMIT 1) AS o
 WHERE e.version > coalesce(c.version, 0)
   AND (%(resources)s::text[] IS NULL OR e.resource_id = ANY(%(resources)s))
   AND (%(since)s::timestamptz IS NULL OR e.created_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR e.created_at < %(until)s)
 ORDER BY e.resource_id, e.version;
