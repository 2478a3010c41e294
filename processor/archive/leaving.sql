-- The statements of `processor/archive/leaving.py`, as the role teller_archive.

-- take_snapshot --
-- All later statements see one snapshot, and cannot write.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL ROLE teller_archive;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO, MDY';
SET LOCAL extra_float_digits = 1;
SET LOCAL statement_timeout = 0;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;

-- begin_removal --
-- The settings are those of the snapshot, so that rows have the same text.
SET LOCAL ROLE teller_archive;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO, MDY';
SET LOCAL extra_float_digits = 1;
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '10s';
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;

-- lock --
-- One removal at a time. After a run that was killed, its last transaction may still be committed: then this waits for it.
SELECT pg_advisory_xact_lock(%(lock)s);

-- read_place --
-- The number of the last file, this installation, and the clock of the database.
SELECT (SELECT coalesce(max(number), 0) FROM archives), i.id, i.schema_version, clock_timestamp()
  FROM installation i;

-- read_names --
SELECT name FROM archives;

-- count_requests --
-- The requests among these that are in the database.
SELECT count(*) FROM requests WHERE id = ANY(%(ids)s::uuid[]);

-- scan --
-- The next requests in the order of their ids, which is that of their acceptance.
SELECT id
  FROM requests
 WHERE id > %(after)s
   AND id < %(bound)s
 ORDER BY id
 LIMIT %(limit)s;

-- find_leaving --
-- Those of the scanned requests that leave, with the refunds of them. A request and its refunds leave together. A refund
-- whose request has left, as one that was accepted at that moment, leaves alone.
-- Each condition is looked up request by request, because the planner would otherwise read whole tables.
WITH scanned AS MATERIALIZED (
    SELECT q.id, q.kind, q.refund_of
      FROM unnest(%(ids)s::uuid[]) AS v(id)
     CROSS JOIN LATERAL (SELECT id, kind, refund_of FROM requests WHERE requests.id = v.id LIMIT 1) AS q
), members AS MATERIALIZED (
    SELECT s.id AS head, s.id, s.kind
      FROM scanned s
     WHERE s.refund_of IS NULL
        OR NOT EXISTS (SELECT FROM requests o WHERE o.id = s.refund_of)
    UNION ALL
    SELECT s.id, r.id, r.kind
      FROM scanned s
     CROSS JOIN LATERAL (SELECT id, kind FROM requests WHERE requests.refund_of = s.id OFFSET 0) AS r
     WHERE s.refund_of IS NULL
), pending AS MATERIALIZED (
    SELECT DISTINCT unnest(request_ids) AS id FROM fanouts
), judged AS (
    SELECT m.head, m.id,
           bool_and(NOT (k.opens OR k.amends OR k.closes)
                    AND d.is_final IS TRUE
                    AND p.id IS NULL
                    AND NOT o.is_open) OVER (PARTITION BY m.head) AS leaves
      FROM members m
      JOIN request_kinds k ON k.kind = m.kind
      LEFT JOIN pending p ON p.id = m.id
      LEFT JOIN LATERAL (SELECT status IN ('completed', 'rejected', 'refunded', 'cancelled')
                                AND at < %(before)s AS is_final
                           FROM decisions
                          WHERE decisions.request_id = m.id
                            AND current
                          LIMIT 1) AS d ON true
     CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM inbox WHERE inbox.request_id = m.id)
                                OR EXISTS (SELECT FROM reservations WHERE reservations.request_id = m.id)
                                OR EXISTS (SELECT FROM effects
                                            WHERE effects.request_id = m.id
                                              AND (due_at IS NOT NULL OR leased_until > clock_timestamp()))
                                OR EXISTS (SELECT FROM deliveries
                                            WHERE deliveries.request_id = m.id
                                              AND status = 'pending') AS is_open
                         OFFSET 0) AS o
)
SELECT id
  FROM judged
 WHERE leaves
 ORDER BY head, id;

-- read_rows --
-- The rows of a table as JSON, with a hash of each. {table} and {key} are names of this schema.
SELECT line, hashtextextended(line, 0)
  FROM (SELECT to_json(t)::text AS line
          FROM {table} AS t
         WHERE t.{key} = ANY(%(ids)s::uuid[])
         ORDER BY {order}
        OFFSET 0) AS rows;

-- read_states_before --
-- The states that the entries with these versions left: entries that stay, or checkpoints.
SELECT v.resource_id, v.version, s.available, s.held, s.created_at, s.digest
  FROM unnest(%(resource_ids)s::text[], %(versions)s::bigint[]) AS v(resource_id, version)
 CROSS JOIN LATERAL (SELECT available, held, created_at, digest
                       FROM entries
                      WHERE entries.resource_id = v.resource_id
                        AND entries.version = v.version
                      UNION ALL
                     SELECT available, held, created_at, digest
                       FROM checkpoints
                      WHERE checkpoints.resource_id = v.resource_id
                        AND checkpoints.version = v.version
                      LIMIT 1) AS s;

-- insert_archive --
INSERT INTO archives (number, name, digest, before, requests, entries, first_id, last_id, clients, ids)
VALUES (%(number)s, %(name)s, %(digest)s, %(before)s, %(requests)s, %(entries)s, %(first_id)s, %(last_id)s, %(clients)s,
        %(ids)s);

-- insert_checkpoints --
-- A checkpoint for the last entry of each chain, unless the entries after it have left already: theirs goes on.
INSERT INTO checkpoints (resource_id, version, available, held, created_at, digest)
SELECT v.*
  FROM unnest(%(resource_ids)s::text[], %(lasts)s::bigint[], %(availables)s::bigint[], %(helds)s::bigint[],
              %(created_ats)s::timestamptz[], %(digests)s::bytea[])
       AS v(resource_id, version, available, held, created_at, digest)
 WHERE EXISTS (SELECT FROM entries e WHERE e.resource_id = v.resource_id AND e.version = v.version + 1)
    OR NOT EXISTS (SELECT FROM checkpoints c WHERE c.resource_id = v.resource_id AND c.version > v.version);

-- delete_checkpoints --
-- The checkpoints that the chains go on from: they no longer stand before an entry.
DELETE FROM checkpoints c
 USING unnest(%(resource_ids)s::text[], %(firsts)s::bigint[]) AS v(resource_id, first)
 WHERE c.resource_id = v.resource_id
   AND c.version = v.first - 1;

-- add_usages --
INSERT INTO archived_usages AS a (resource_id, client_id, account, used, day, day_used)
SELECT *
  FROM unnest(%(resource_ids)s::text[], %(client_ids)s::text[], %(accounts)s::text[], %(used)s::numeric[],
              %(days)s::date[], %(day_used)s::numeric[])
    ON CONFLICT (resource_id, client_id, account)
    DO UPDATE SET used = a.used + EXCLUDED.used,
                  day = greatest(a.day, EXCLUDED.day),
                  day_used = CASE WHEN a.day = EXCLUDED.day THEN a.day_used + EXCLUDED.day_used
                                  WHEN a.day > EXCLUDED.day OR EXCLUDED.day IS NULL THEN a.day_used
                                  ELSE EXCLUDED.day_used END;

-- add_decisions --
INSERT INTO archived_decisions AS a (partition, decisions, sequences, last)
SELECT *
  FROM unnest(%(partitions)s::smallint[], %(decisions)s::bigint[], %(sequences)s::numeric[], %(lasts)s::bigint[])
    ON CONFLICT (partition)
    DO UPDATE SET decisions = a.decisions + EXCLUDED.decisions, sequences = a.sequences + EXCLUDED.sequences,
                  last = greatest(a.last, EXCLUDED.last);

-- note --
INSERT INTO audit (actor, action, detail)
VALUES (%(actor)s, 'archive', %(detail)s);

-- remove --
-- Removes the rows of a table. Returns their number and the sum of their hashes: those of the file.
WITH gone AS (
    DELETE FROM {table} AS t
     WHERE t.{key} = ANY(%(ids)s::uuid[])
    RETURNING hashtextextended(to_json(t)::text, 0) AS hash
)
SELECT count(*), coalesce(sum(hash), 0)
  FROM gone;
