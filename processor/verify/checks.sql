-- The statements of `processor/verify/checks.py`, which run in one snapshot of a running system.
--
-- Each query after `read_rules` is a check, and its name is the code of its discrepancies. Each returned row is one
-- discrepancy, with the id of the object and a description. A new check needs a query and no code. Values that
-- PostgreSQL refuses to store (the CHECKs of schema.sql) are checked here only where sums depend on them.

-- take_snapshot --
-- All later statements see one snapshot, and cannot write. Parallel plans and JIT are off: the running system needs the
-- processors.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL timezone = 'UTC';
SET LOCAL statement_timeout = 0;
SET LOCAL work_mem = '32MB';
SET LOCAL cursor_tuple_fraction = 1;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;

-- count --
SELECT (SELECT count(*) FROM resources), (SELECT count(*) FROM entries), (SELECT count(*) FROM requests),
       (SELECT count(*) FROM decisions WHERE current), (SELECT count(*) FROM inbox), (SELECT count(*) FROM usages),
       (SELECT coalesce(sum(requests), 0) FROM archives);

-- read_entries --
-- The whole ledger, for each resource from its first entry to its last. A checkpoint has no kind: the entries up to it
-- have left, and the next one goes on from it.
SELECT resource_id, version, kind, request_id, account, amount, available, held, created_at, digest
  FROM entries
 UNION ALL
SELECT resource_id, version, NULL, NULL, NULL, NULL, available, held, created_at, digest
  FROM checkpoints
 ORDER BY 1, 2, 3;

-- read_rules --
-- Every resource, with the acts that changed its rules, in their order. The exception is a replayed request: it keeps
-- its old number, which does not give its place within its batch (one `at`).
SELECT r.id, r.kind, r.unit, r.client_id, r.overdraft, r.per_account_limit, r.starts_at, r.ends_at, r.gateway,
       r.confirm_above, r.approve_above, r.metadata, r.created_at, r.closed_at, r.per_account_daily_limit,
       r.decimals, a.kind, a.details, a.at, a.replayed
  FROM resources r
  LEFT JOIN (SELECT q.resource_id, q.kind, q.details, d.at, d.sequence, d.version > 2 AS replayed
               FROM requests q
               JOIN decisions d ON d.request_id = q.id AND d.current AND d.status = 'completed'
               JOIN request_kinds k USING (kind)
              WHERE k.opens OR k.amends OR k.closes) AS a ON a.resource_id = r.id
 ORDER BY r.id, a.at, a.sequence;

-- opening_without_resource --
-- A completed opening has made its resource.
SELECT q.id::text, 'this opening is completed, but there is no resource ' || q.resource_id
  FROM requests q
  JOIN decisions d ON d.request_id = q.id AND d.current AND d.status = 'completed'
  JOIN request_kinds k USING (kind)
 WHERE k.opens
   AND NOT EXISTS (SELECT FROM resources r WHERE r.id = q.resource_id);

-- resource_state_wrong --
-- The state of a resource is the state that its last entry left, or its last checkpoint.
SELECT r.id,
       concat_ws(', ', CASE WHEN r.version <> e.version THEN 'version is ' || r.version || ', not ' || e.version END,
                 CASE WHEN r.available <> e.available THEN 'available is ' || r.available || ', not ' || e.available END,
                 CASE WHEN r.held <> e.held THEN 'held is ' || r.held || ', not ' || e.held END,
                 CASE WHEN r.digest <> e.digest THEN 'digest is that of another entry' END,
                 CASE WHEN r.last_entry_at IS DISTINCT FROM e.created_at
                      THEN 'last_entry_at is ' || coalesce(r.last_entry_at::text, 'null') || ', not '
                           || coalesce(e.created_at::text, 'null') END)
  FROM resources r
 CROSS JOIN LATERAL (SELECT version, available, held, digest, created_at
                       FROM entries
                      WHERE resource_id = r.id
                      UNION ALL
                     SELECT version, available, held, digest, created_at
                       FROM checkpoints
                      WHERE resource_id = r.id
                      UNION ALL
                     SELECT 0, 0, 0, decode(repeat('00', 32), 'hex'), NULL
                      ORDER BY version DESC
                      LIMIT 1) AS e
 WHERE (r.version, r.available, r.held, r.digest) <> (e.version, e.available, e.held, e.digest)
    OR r.last_entry_at IS DISTINCT FROM e.created_at;

-- resource_below_overdraft --
SELECT id, 'available is ' || available || ', with an overdraft of ' || overdraft
  FROM resources
 WHERE available < -overdraft;

-- partition_wrong --
-- A resource, and every request and leg for it, is in the partition of `partitioning.partition_of`.
SELECT resource_id, 'it is in partition ' || partition || ', but its id gives ' || home
  FROM (SELECT resource_id, partition, home_partition(resource_id, installed.partitions) AS home
          FROM (SELECT resource_id, partition FROM requests
                 UNION SELECT id, partition FROM resources
                 UNION SELECT resource_id, partition FROM legs) AS placed,
               installation AS installed) AS derived
 WHERE partition <> home;

-- partition_missing --
-- The partitions are those that the database was made with.
SELECT coalesce(p.id, n)::text, CASE WHEN n IS NULL THEN 'there is no such partition' ELSE 'its row is missing' END
  FROM partitions p
  FULL JOIN (SELECT generate_series(0, partitions - 1) AS n FROM installation) AS made ON n = p.id
 WHERE p.id IS NULL
    OR n IS NULL;

-- entry_without_resource --
SELECT DISTINCT resource_id, 'it has entries, but there is no such resource'
  FROM entries e
 WHERE NOT EXISTS (SELECT FROM resources r WHERE r.id = e.resource_id);

-- checkpoint_wrong --
-- A checkpoint belongs to a resource, and stands for entries that are not there.
SELECT c.resource_id || '/' || c.version,
       CASE WHEN r.id IS NULL THEN 'it is a checkpoint, but there is no such resource'
            WHEN c.version > r.version THEN 'it is a checkpoint, but the resource has version ' || r.version
            ELSE 'it is a checkpoint, but its entry is there' END
  FROM checkpoints c
  LEFT JOIN resources r ON r.id = c.resource_id
 WHERE r.id IS NULL
    OR c.version > r.version
    OR EXISTS (SELECT FROM entries e WHERE e.resource_id = c.resource_id AND e.version = c.version);

-- archive_wrong --
-- The files are numbered from 1, and the ids of each are in order, between its first and its last one. They have one first
-- decision for each request, and the entries that are missing here.
WITH filed AS (
    SELECT coalesce(sum(requests), 0) AS requests, coalesce(sum(entries), 0) AS entries FROM archives
), moved AS (
    SELECT coalesce(sum(version), 0) AS entries FROM resources
)
SELECT a.number::text, 'the file before it has number ' || a.before_number
  FROM (SELECT number, lag(number, 1, 0) OVER (ORDER BY number) AS before_number FROM archives) AS a
 WHERE a.number <> a.before_number + 1
 UNION ALL
SELECT a.number::text, 'its ids are not those of ' || a.requests || ' requests from ' || a.first_id || ' to ' || a.last_id
  FROM archives a
 WHERE length(a.ids) <> 18 * a.requests
    OR substring(a.ids FOR 16) <> uuid_send(a.first_id)
    OR substring(a.ids FROM 18 * a.requests - 17 FOR 16) <> uuid_send(a.last_id)
    OR (SELECT bool_or(one.id <= one.id_before OR a.clients[one.place] IS NULL)
          FROM (SELECT substring(a.ids FROM 18 * n + 1 FOR 16) AS id,
                       lag(substring(a.ids FROM 18 * n + 1 FOR 16)) OVER (ORDER BY n) AS id_before,
                       ('x' || encode(substring(a.ids FROM 18 * n + 17 FOR 2), 'hex'))::bit(16)::integer + 1 AS place
                  FROM generate_series(0, a.requests - 1) AS n) AS one) IS TRUE
 UNION ALL
SELECT 'all', 'the files have ' || requests || ' requests, but ' || d.decisions || ' first decisions have left'
  FROM filed, (SELECT coalesce(sum(decisions), 0) AS decisions FROM archived_decisions) AS d
 WHERE filed.requests <> d.decisions
 UNION ALL
SELECT 'all', 'the files have ' || filed.entries || ' entries, but ' || moved.entries - present.entries || ' have left'
  FROM filed, moved, (SELECT count(*) AS entries FROM entries) AS present
 WHERE filed.entries > 0
   AND filed.entries <> moved.entries - present.entries;

-- entry_below_overdraft --
-- No entry leaves less than the largest overdraft that the resource was ever given.
SELECT e.resource_id || '/' || e.version,
       'it leaves ' || e.available || ', but no overdraft was above ' || coalesce(g.overdraft, 0)
  FROM entries e
  LEFT JOIN (SELECT q.resource_id,
                    max(CASE jsonb_typeof(q.details -> 'overdraft')
                        WHEN 'number' THEN (q.details ->> 'overdraft')::numeric ELSE 0 END) AS overdraft
               FROM requests q
               JOIN decisions d ON d.request_id = q.id AND d.current AND d.status = 'completed'
               JOIN request_kinds k USING (kind)
              WHERE (k.opens OR k.amends)
              GROUP BY q.resource_id) AS g ON g.resource_id = e.resource_id
 WHERE e.available < 0
   AND e.available < -coalesce(g.overdraft, 0);

-- entry_unexplained --
-- An entry belongs to a request, and has the account of it, and its resource or that of its leg. A refund gives back to
-- the account of the first request. Leg -1 is the rest of a hold of which a part was captured.
SELECT e.resource_id || '/' || e.version,
       CASE WHEN q.id IS NULL THEN 'there is no request ' || e.request_id
            ELSE 'it is leg ' || e.leg || ' of ' || coalesce(e.account, 'no account') || ', but request ' || q.id || ' is for '
                 || coalesce(l.resource_id, q.resource_id) || ' and '
                 || coalesce(first.account, q.account, 'no account') END
  FROM entries e
  LEFT JOIN requests q ON q.id = e.request_id
  LEFT JOIN requests first ON first.id = q.refund_of
  LEFT JOIN legs l ON l.request_id = e.request_id AND l.leg = e.leg
 WHERE q.id IS NULL
    OR e.resource_id <> coalesce(l.resource_id, q.resource_id)
    OR e.account IS DISTINCT FROM coalesce(first.account, q.account)
    OR (e.leg <> 0 AND l.leg IS NULL
        AND NOT (e.leg = -1
                 AND e.kind = 'release'
                 AND EXISTS (SELECT FROM entries c
                              WHERE c.request_id = e.request_id AND c.leg = 0 AND c.kind = 'capture')));

-- legs_wrong --
-- The legs of a request are those of its details.
SELECT coalesce(q.id, l.request_id)::text,
       'its legs are ' || coalesce(l.legs::text, 'none') || ', but its details say ' || coalesce(q.legs::text, 'none')
  FROM (SELECT id, details -> 'legs' AS legs FROM requests WHERE details ? 'legs') AS q
  FULL JOIN (SELECT request_id,
                    jsonb_agg(jsonb_strip_nulls(jsonb_build_object('resource', resource_id, 'take', take, 'give', give))
                              ORDER BY leg) AS legs,
                    max(leg) = count(*) - 1 AND count(DISTINCT leg) = count(*) AS is_whole
               FROM legs
              GROUP BY request_id) AS l ON l.request_id = q.id
 WHERE q.legs IS DISTINCT FROM l.legs
    OR NOT l.is_whole;

-- leg_effect_wrong --
-- The entries of a request with legs agree with its state, leg by leg.
-- 1. If it is done, each leg has one debit or credit of its quantity; otherwise it has none.
-- 2. A reservation has a hold of each leg instead. All of them end by a capture, or all by a release.
-- 3. The refund of a failed reservation released its holds, and has no entries.
WITH moved AS (
    SELECT request_id, leg, string_agg(kind, ' ' ORDER BY version) AS kinds, array_agg(DISTINCT amount) AS amounts
      FROM entries
     WHERE request_id IN (SELECT request_id FROM legs)
     GROUP BY request_id, leg
), present AS (
    SELECT l.request_id, l.leg, q.kind, k.reserves, coalesce(l.take, l.give) AS quantity, coalesce(m.kinds, '') AS kinds,
           coalesce(first.kinds, '') AS kinds_of_first, m.amounts, coalesce(d.stage, d.status, 'undecided') AS state, d.captured,
           CASE WHEN k.reserves THEN CASE WHEN d.stage = 'held'         THEN ARRAY['hold']
                                          WHEN d.status = 'completed'   THEN ARRAY['hold capture']
                                          WHEN d.status = 'refunded'    THEN ARRAY['hold capture', 'hold release']
                                          WHEN d.code IN ('released', 'reservation_expired') THEN ARRAY['hold release']
                                          WHEN d.status = 'failed'      THEN ARRAY['', 'hold']
                                          ELSE ARRAY[''] END
                WHEN d.status IS NULL OR d.status NOT IN ('completed', 'refunded') THEN ARRAY['']
                WHEN k.gives_back AND EXISTS (SELECT FROM entries o WHERE o.request_id = q.refund_of AND o.kind = 'release')
                THEN ARRAY['']
                WHEN l.take IS NULL THEN ARRAY['credit']
                ELSE ARRAY['debit'] END AS right_kinds
      FROM legs l
      JOIN requests q ON q.id = l.request_id
      JOIN request_kinds k ON k.kind = q.kind
      LEFT JOIN decisions d ON d.request_id = l.request_id AND d.current
      LEFT JOIN moved m ON m.request_id = l.request_id AND m.leg = l.leg
      LEFT JOIN moved first ON first.request_id = l.request_id AND first.leg = 0 AND k.reserves
)
SELECT request_id::text,
       'leg ' || leg || ' of a ' || kind || ' that is ' || state || ' has ' || coalesce(nullif(kinds, ''), 'no entry')
       || coalesce(' of ' || array_to_string(amounts, ', '), '') || ' in place of '
       || coalesce(nullif(array_to_string(right_kinds, ', or '), ''), 'none') || ' of ' || quantity
       || CASE WHEN reserves THEN '; the first leg has ' || coalesce(nullif(kinds_of_first, ''), 'no entry') ELSE '' END
       || coalesce('; captured is ' || captured, '')
  FROM present
 WHERE kinds <> ALL(right_kinds)
    OR amounts <> ARRAY[quantity]
    OR (reserves AND kinds <> kinds_of_first)
    OR captured IS NOT NULL;

-- leg_split --
-- The transaction that decided an exchange, or a refund of one, wrote the entries of all legs at its own time. The time of
-- an entry is later only if that of the entry before it is.
SELECT e.request_id::text,
       'leg ' || e.leg || ' moved ' || e.resource_id || ' at ' || e.created_at || ', and the request was completed at ' || d.at
  FROM (SELECT DISTINCT request_id FROM legs) AS l
  JOIN entries e ON e.request_id = l.request_id AND e.kind IN ('debit', 'credit')
  JOIN decisions d ON d.request_id = l.request_id AND d.status = 'completed'
  LEFT JOIN entries before ON before.resource_id = e.resource_id AND before.version = e.version - 1
  LEFT JOIN checkpoints gone ON gone.resource_id = e.resource_id AND gone.version = e.version - 1
 WHERE e.created_at <> greatest(d.at, before.created_at, gone.created_at);

-- leg_refund_wrong --
-- A request with legs is refunded if a refund of it is done, and only then. The refund has the opposite legs.
SELECT q.id::text, 'it is ' || coalesce(d.status, 'undecided') || ', and ' || count(r.id) || ' refunds of it are completed'
  FROM requests q
  JOIN decisions d ON d.request_id = q.id AND d.current
  LEFT JOIN (SELECT refund.id, refund.refund_of,
                    (SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('resource', resource_id, 'take', give, 'give', take))
                                      ORDER BY leg)
                       FROM legs
                      WHERE request_id = refund.id) AS opposite
               FROM requests refund
               JOIN decisions done ON done.request_id = refund.id AND done.current AND done.status = 'completed'
              WHERE refund.details ? 'legs'
                AND refund.refund_of IS NOT NULL) AS r ON r.refund_of = q.id
 WHERE q.details ? 'legs'
   AND q.refund_of IS NULL
 GROUP BY q.id, d.status, q.details
HAVING count(r.id) <> CASE WHEN d.status = 'refunded' THEN 1 ELSE 0 END
    OR bool_or(r.opposite IS DISTINCT FROM q.details -> 'legs' AND r.id IS NOT NULL);

-- entry_out_of_order --
-- The debits, credits and holds that decisions wrote at once are in the order of the decisions, for each resource. A
-- request from another partition, with a later leg here, has a number of another counter.
SELECT resource_id || '/' || version, 'decision ' || sequence || ' moved it after decision ' || before
  FROM (SELECT e.resource_id, e.version, d.sequence,
               lag(d.sequence) OVER (PARTITION BY e.resource_id ORDER BY e.version) AS before
          FROM entries e
          JOIN decisions d ON d.request_id = e.request_id
          JOIN requests q ON q.id = e.request_id
          JOIN resources t ON t.id = e.resource_id AND t.partition = q.partition  -- one counter of decisions
         WHERE e.kind IN ('debit', 'credit', 'hold')
           AND d.version = 2
           AND (d.status = 'completed' OR d.stage IN ('held', 'settling'))) AS moved
 WHERE sequence <= before;

-- request_effect_wrong --
-- The entries of a request agree with its state.
-- 1. An undecided or rejected request has none.
-- 2. A completed one has one debit, or a hold and its capture. A reservation may capture a part and release the rest.
-- 3. A refunded or cancelled one has a release, or the credits of refunds.
-- 4. A held one has a hold alone. Only reservations are `held`, and give a hold back when they are cancelled.
WITH moved AS (
    SELECT request_id,
           coalesce(sum(amount) FILTER (WHERE kind = 'debit'), 0)   AS debit,
           coalesce(sum(amount) FILTER (WHERE kind = 'credit'), 0)  AS credit,
           coalesce(sum(amount) FILTER (WHERE kind = 'hold'), 0)    AS hold,
           coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS capture,
           coalesce(sum(amount) FILTER (WHERE kind = 'release'), 0) AS release
      FROM entries
     GROUP BY request_id
), given_back AS (
    SELECT q.refund_of AS request_id, sum(e.amount) AS back
      FROM requests q
      JOIN entries e ON e.request_id = q.id AND e.kind = 'credit'
     WHERE q.refund_of IS NOT NULL
     GROUP BY q.refund_of
), present AS (
    SELECT q.id, q.kind, k.takes, k.reserves, k.gives, k.gives_back, q.amount, d.captured, q.refund_of,
           coalesce(q.details ? 'legs', false) AS has_legs,
           coalesce(d.stage, d.status, 'undecided') AS state,
           coalesce(m.debit, 0) AS debit, coalesce(m.hold, 0) AS hold, coalesce(m.capture, 0) AS capture,
           coalesce(m.release, 0) AS release, coalesce(m.credit, 0) AS credit, coalesce(g.back, 0) AS back
      FROM requests q
      LEFT JOIN request_kinds k USING (kind)
      LEFT JOIN decisions d ON d.request_id = q.id AND d.current
      LEFT JOIN moved m ON m.request_id = q.id
      LEFT JOIN given_back g ON g.request_id = q.id
)
SELECT id::text,
       'a ' || kind || ' of ' || coalesce(amount::text, 'no amount') || ' that is ' || state || ' has debit ' || debit
       || ', hold ' || hold || ', capture ' || capture || ', release ' || release || ', credit ' || credit
       || '; refunds gave back ' || back
  FROM present
 WHERE NOT has_legs  -- leg_effect_wrong
   AND CASE
       WHEN reserves AND state IN ('completed', 'refunded') AND captured IS NOT NULL
            THEN (debit, hold, capture, release, credit) = (0, amount, captured, amount - captured, 0)
                 AND CASE state WHEN 'completed' THEN back < captured ELSE back = captured END
       WHEN captured IS NOT NULL OR (reserves AND state = 'completed') OR (state = 'held' AND NOT reserves) THEN false
       WHEN takes AND state = 'completed'
            THEN (debit, hold, capture, release, credit) IN ((amount, 0, 0, 0, 0), (0, amount, amount, 0, 0))
                 AND back < amount
       WHEN takes AND state = 'refunded'
            THEN (debit, hold, capture, release, credit, back) IN ((amount, 0, 0, 0, 0, amount),
                                                                   (0, amount, amount, 0, 0, amount),
                                                                   (0, amount, 0, amount, 0, 0))
       WHEN takes AND state IN ('held', 'settling')
            THEN (debit, hold, capture, release, credit, back) = (0, amount, 0, 0, 0, 0)
       WHEN takes AND state = 'failed'
            THEN (debit, hold, capture, release, credit, back) IN ((0, 0, 0, 0, 0, 0), (0, amount, 0, 0, 0, 0))
       WHEN takes AND state = 'cancelled'
            THEN (debit, hold, capture, release, credit, back) = (0, 0, 0, 0, 0, 0)
                 OR (reserves AND (debit, hold, capture, release, credit, back) = (0, amount, 0, amount, 0, 0))
       WHEN gives AND state = 'completed'
            THEN (debit, hold, capture, release, credit) = (0, 0, 0, 0, amount)
       WHEN gives_back AND state = 'completed'
            THEN (debit, hold, capture, release) = (0, 0, 0, 0)
                 AND CASE WHEN credit > 0 THEN credit = coalesce(amount, credit)
                          ELSE EXISTS (SELECT FROM entries e WHERE e.request_id = refund_of AND e.kind = 'release') END
       ELSE (debit, hold, capture, release, credit) = (0, 0, 0, 0, 0)
            AND (state IN ('undecided', 'rejected', 'cancelled', 'failed') OR state LIKE 'awaiting_%%'
                 OR (state = 'completed' AND NOT (takes OR gives OR gives_back))) END IS NOT TRUE;

-- reservation_wrong --
-- An open hold of a reservation has a row, with its partitions and quantity, and no other hold has one. Its command waits
-- in the inbox, unless it was decided: its gateway is called, or it has failed.
SELECT coalesce(v.request_id, h.id)::text,
       CASE WHEN v.request_id IS NULL THEN 'it is ' || h.state || ', and nothing will end its hold'
            WHEN h.id IS NULL THEN 'it holds nothing, but its hold is to be ended'
            WHEN h.state IS DISTINCT FROM 'held' OR v.command IS NULL
            THEN 'its hold of ' || v.held || ' in partition ' || v.partition || ' is to end ' || v.expires_at || ' or by '
                 || coalesce(v.command, 'a command') || '; it is ' || h.state || ' and holds ' || h.amount || ' in partition '
                 || h.partition || coalesce(', and its legs are to be in ' || array_to_string(v.partitions, ', '), '')
            ELSE 'its ' || v.command || ' was accepted, and never will be decided: it is not in the inbox' END
  FROM (SELECT e.request_id AS id, sum(e.amount) AS amount, q.partition, coalesce(d.stage, d.status, 'undecided') AS state
          FROM entries e
          JOIN requests q ON q.id = e.request_id
          JOIN request_kinds k ON k.kind = q.kind AND k.reserves
          LEFT JOIN decisions d ON d.request_id = q.id AND d.current
         WHERE e.kind = 'hold'
           AND NOT EXISTS (SELECT FROM entries o
                            WHERE o.request_id = e.request_id AND o.leg = e.leg AND o.kind IN ('capture', 'release'))
         GROUP BY e.request_id, q.partition, d.stage, d.status) AS h
  FULL JOIN reservations v ON v.request_id = h.id
 WHERE v.request_id IS NULL
    OR h.id IS NULL
    OR v.held <> h.amount
    OR v.partition <> h.partition
    OR v.partitions IS DISTINCT FROM (SELECT array_agg(DISTINCT l.partition ORDER BY l.partition)
                                        FROM legs l
                                       WHERE l.request_id = v.request_id)
    OR h.state NOT IN ('held', 'settling', 'failed')
    OR (h.state = 'settling' AND v.command IS DISTINCT FROM 'capture')
    OR (h.state = 'held' AND v.command IS NOT NULL
        AND NOT EXISTS (SELECT FROM inbox i WHERE i.request_id = v.request_id AND i.verb = v.command));

-- request_refunded_wrong --
-- `refunded` is the sum that refunds credited or released. A request with legs has no single amount, so it is 0.
SELECT d.request_id::text, 'refunded is ' || d.refunded || ', but ' || coalesce(g.back, 0) || ' is back'
  FROM decisions d
  LEFT JOIN (SELECT coalesce(q.refund_of, q.id) AS request_id, sum(e.amount) AS back
               FROM entries e
               JOIN requests q ON q.id = e.request_id
               LEFT JOIN decisions own ON own.request_id = q.id AND own.current AND own.status = 'refunded'
              WHERE ((e.kind = 'credit' AND q.refund_of IS NOT NULL)
                     OR (e.kind = 'release' AND e.leg >= 0 AND own.request_id IS NOT NULL))
                AND NOT coalesce(q.details ? 'legs', false)
              GROUP BY 1) AS g ON g.request_id = d.request_id
 WHERE d.current
   AND d.refunded <> coalesce(g.back, 0);

-- refund_target_wrong --
-- Only a refund names another request, and both have the same resource. A refund that was accepted while its request left
-- for the archive is rejected.
SELECT q.id::text, 'a ' || q.kind || ' for ' || q.resource_id || ' cannot be the refund of '
                   || coalesce(q.refund_of::text, 'nothing')
  FROM requests q
  LEFT JOIN request_kinds k USING (kind)
  LEFT JOIN requests first ON first.id = q.refund_of
 WHERE k.gives_back IS DISTINCT FROM (q.refund_of IS NOT NULL)
    OR (q.refund_of IS NOT NULL
        AND first.resource_id IS DISTINCT FROM q.resource_id
        AND NOT (first.id IS NULL
                 AND EXISTS (SELECT FROM archived_in(q.refund_of))
                 AND NOT EXISTS (SELECT FROM decisions d
                                  WHERE d.request_id = q.id AND d.code IS DISTINCT FROM 'nothing_to_refund')));

-- request_kind_wrong --
-- A request has one of the kinds, and the fields that its kind requires.
SELECT q.id::text, CASE WHEN k.kind IS NULL THEN 'there is no kind ' || q.kind
                        ELSE 'a ' || q.kind || ' of ' || coalesce(q.account, 'no account') || ' lacks a required field' END
  FROM requests q
  LEFT JOIN request_kinds k USING (kind)
 WHERE k.kind IS NULL
    OR (k.requires_account AND q.account IS NULL)
    OR (k.least_amount IS NOT NULL AND (q.amount IS NULL OR q.amount < k.least_amount)
        AND NOT (k.reserves AND coalesce(q.details ? 'legs', false)))
    OR (k.reserves AND jsonb_path_exists(q.details, '$.legs[*].give'))
    OR (k.requires_legs AND NOT coalesce(q.details ? 'legs', false))
    OR (q.details ? 'legs' AND (q.amount IS NOT NULL OR NOT (k.requires_legs OR k.reserves OR k.gives_back)));

-- request_forgotten --
-- An undecided request has a row in the inbox.
SELECT q.id::text, 'it is not decided, and never will be: it is not in the inbox'
  FROM requests q
 WHERE NOT EXISTS (SELECT FROM decisions d WHERE d.request_id = q.id)
   AND NOT EXISTS (SELECT FROM inbox i WHERE i.request_id = q.id AND i.verb = 'decide');

-- effect_unexplained --
-- An effect belongs to a hold, in the home partition, and its gateway is one that the resource had.
SELECT e.request_id::text,
       CASE WHEN q.id IS NULL THEN 'a gateway is asked, but there is no such request'
            WHEN h.request_id IS NULL THEN 'a gateway is asked, but nothing was ever held'
            ELSE 'gateway ' || e.gateway || ' is asked for leg ' || e.leg || ' in partition ' || e.partition
                 || '; home is ' || q.partition || ', gateways of the resource: '
                 || coalesce(array_to_string(g.gateways, ', '), 'none') END
  FROM effects e
  LEFT JOIN requests q ON q.id = e.request_id
  LEFT JOIN entries h ON h.request_id = e.request_id AND h.leg = e.leg AND h.kind = 'hold'
  LEFT JOIN (SELECT a.resource_id, array_agg(DISTINCT a.details ->> 'gateway') AS gateways
               FROM requests a
               JOIN decisions d ON d.request_id = a.id AND d.current AND d.status = 'completed'
               JOIN request_kinds k USING (kind)
              WHERE (k.opens OR k.amends)
                AND a.details ->> 'gateway' IS NOT NULL
              GROUP BY a.resource_id) AS g ON g.resource_id = q.resource_id
 WHERE h.request_id IS NULL
    OR e.partition IS DISTINCT FROM q.partition
    OR (e.gateway = ANY(g.gateways)) IS NOT TRUE;

-- effect_missing --
-- A hold of a kind that asks gateways has an effect.
SELECT h.request_id::text, 'it held ' || h.amount || ' of ' || h.resource_id || ', and no gateway was ever to be asked'
  FROM entries h
  JOIN requests q ON q.id = h.request_id
  JOIN request_kinds k ON k.kind = q.kind
 WHERE h.kind = 'hold'
   AND k.asks_gateway
   AND NOT EXISTS (SELECT FROM effects e WHERE e.request_id = h.request_id AND e.leg = h.leg);

-- confirmation_forgotten --
-- A request that waits for a code has one, sent or due. Only a right code or its expiry ends the wait.
SELECT d.request_id::text, 'it waits for a code, and there is none'
  FROM decisions d
 WHERE d.current
   AND d.stage = 'awaiting_confirmation'
   AND NOT EXISTS (SELECT FROM codes c WHERE c.request_id = d.request_id AND coalesce(c.due_at, c.expires_at) IS NOT NULL);

-- settling_forgotten --
-- A request that waits for a gateway has a call that is due or in flight, or an answer in the inbox. A definite answer
-- that came later is applied too.
SELECT d.request_id::text,
       'it is ' || coalesce(d.stage, d.status) || '; its gateway '
       || CASE WHEN e.request_id IS NULL THEN 'was never asked'
               WHEN e.outcome IS NULL THEN 'will not be asked'
               ELSE 'answered ' || e.outcome || ', but no row settles it' END
  FROM decisions d
  LEFT JOIN effects e ON e.request_id = d.request_id
 WHERE d.current
   AND CASE WHEN d.stage = 'settling' THEN e.outcome IN ('done', 'declined') OR coalesce(e.due_at, e.leased_until) IS NULL
            WHEN d.code IN ('gateway_unreachable', 'gateway_misconfigured') THEN e.outcome IN ('done', 'declined')
            ELSE false END
   AND NOT EXISTS (SELECT FROM inbox i WHERE i.request_id = d.request_id AND i.verb = 'settle');

-- outcome_wrong --
-- A hold with an effect is captured only after the gateway's yes. It is released only after its no, or after a refund
-- that voided the effect. The decision has the reference or the reason of the gateway's answer.
SELECT request_id::text,
       concat_ws(' ', 'it is', status, '(' || code || ')', 'with reference', coalesce(reference, 'none') || '; its gateway',
                 CASE WHEN voided_at IS NOT NULL THEN 'is not to be asked and' END,
                 'said', coalesce(outcome, 'nothing yet'), answer)
  FROM (SELECT d.request_id, d.status, d.code, d.reference, d.reason, e.outcome, e.reference AS answer,
               e.reason AS refusal, e.voided_at, e.due_at,
               EXISTS (SELECT FROM entries r WHERE r.request_id = e.request_id AND r.leg >= 0 AND r.kind = 'release') AS released
          FROM effects e
          JOIN decisions d ON d.request_id = e.request_id AND d.current) AS asked
 WHERE (due_at IS NOT NULL AND (outcome IN ('done', 'declined') OR voided_at IS NOT NULL))
    OR CASE WHEN code = 'gateway_declined' THEN outcome = 'declined' AND voided_at IS NULL
                                                AND reason IS NOT DISTINCT FROM refusal
            WHEN released             THEN voided_at IS NOT NULL
            WHEN status = 'completed' OR status = 'refunded' THEN outcome = 'done' AND voided_at IS NULL
                                                AND reference IS NOT DISTINCT FROM answer
            ELSE voided_at IS NULL END IS NOT TRUE;

-- inbox_without_request --
SELECT i.seq::text, 'it is about request ' || i.request_id || ', and there is none'
  FROM inbox i
 WHERE NOT EXISTS (SELECT FROM requests q WHERE q.id = i.request_id);

-- inbox_decided_already --
SELECT i.seq::text, 'request ' || i.request_id || ' is to be decided, but is decided already'
  FROM inbox i
 WHERE i.verb = 'decide'
   AND EXISTS (SELECT FROM decisions d WHERE d.request_id = i.request_id);

-- inbox_misplaced --
-- Work on a request waits in its home partition. A request with legs has a row in the partition of each, with one seq.
WITH placed AS (
    SELECT i.request_id, i.verb, min(i.seq) AS seq, count(DISTINCT i.seq) AS seqs,
           array_agg(i.leg || ' in partition ' || i.partition ORDER BY i.leg) AS places
      FROM inbox i
     GROUP BY i.request_id, i.verb
)
SELECT p.seq::text,
       'request ' || p.request_id || ' waits as leg ' || array_to_string(p.places, ', ') || ', with ' || p.seqs
       || ' numbers, not as leg ' || array_to_string(due.places, ', ')
  FROM placed p
  JOIN requests q ON q.id = p.request_id
 CROSS JOIN LATERAL (SELECT array_agg(leg || ' in partition ' || partition ORDER BY leg) AS places
                       FROM (SELECT min(leg) AS leg, partition
                               FROM (SELECT 0 AS leg, q.partition
                                     UNION ALL
                                     SELECT leg, partition FROM legs
                                      WHERE request_id = q.id
                                        AND p.verb NOT IN ('settle', 'cancel', 'deny')) AS every
                              GROUP BY partition) AS of_each) AS due
 WHERE p.places IS DISTINCT FROM due.places
    OR p.seqs <> 1;

-- inbox_below_low_water --
-- Inbox rows at or below the low-water mark of their partition: batches look above it, so these would wait for ever.
SELECT i.seq::text,
       'it lies below the low-water mark of partition ' || p.id || ', ' || p.low_water || ': no batch will see it'
  FROM inbox i
  JOIN partitions p ON p.id = i.partition
 WHERE i.seq <= p.low_water;

-- decision_without_request --
SELECT d.request_id::text, 'it was decided, but there is no such request'
  FROM decisions d
 WHERE NOT EXISTS (SELECT FROM requests q WHERE q.id = d.request_id);

-- decision_versions_wrong --
-- The versions of a request continue from its acceptance, which is 1, without gaps.
SELECT request_id::text, 'its versions are ' || string_agg(version::text, ', ' ORDER BY version)
  FROM decisions
 GROUP BY request_id
HAVING min(version) <> 2
    OR max(version) <> count(*) + 1
    OR count(DISTINCT version) <> count(*);

-- decision_current_wrong --
-- A request is in the state of its last version, and in no other.
SELECT request_id::text,
       'its versions go to ' || max(version) || '; current: '
       || coalesce(string_agg(version::text, ', ' ORDER BY version) FILTER (WHERE current), 'none')
  FROM decisions
 GROUP BY request_id
HAVING count(*) FILTER (WHERE current) <> 1
    OR max(version) FILTER (WHERE current) <> max(version);

-- decision_not_carried_over --
-- A decision is counted and dated once, and later versions repeat both. Version 2 was written at that time.
SELECT d.request_id::text,
       'version ' || d.version || ' says decision ' || d.sequence || ' at ' || d.decided_at
       || CASE WHEN d.version = 2 THEN ', but was written at ' || d.at
               ELSE ', version 2 says ' || first.sequence || ' at ' || first.decided_at END
  FROM decisions d
  JOIN decisions first ON first.request_id = d.request_id AND first.version = 2
 WHERE d.sequence <> first.sequence
    OR d.decided_at <> first.decided_at
    OR (d.version = 2 AND d.at <> d.decided_at);

-- decision_after_the_end --
-- No state follows a final one, with two exceptions: a refund of a completed request, and `paid_after_refund`. The
-- refunded sum never falls.
SELECT d.request_id::text,
       'version ' || d.version || ' (' || d.status || ', refunded ' || d.refunded || ') follows '
       || before.status || ', refunded ' || before.refunded
  FROM decisions d
  JOIN decisions before ON before.request_id = d.request_id AND before.version = d.version - 1
 WHERE d.version > 2
   AND (before.status IN ('rejected', 'cancelled')
        OR (before.status = 'completed' AND d.status NOT IN ('completed', 'refunded'))
        OR (before.status = 'refunded' AND d.status <> 'refunded')
        OR d.refunded < before.refunded);

-- decision_code_wrong --
-- Each status has its own codes, as `error.code` of the API shows them. `processing` alone has stages.
SELECT request_id::text,
       'version ' || version || ' is ' || concat_ws(', ', status, stage) || ' for ' || coalesce(code, 'no reason')
  FROM decisions
 WHERE (stage IS NOT NULL) <> (status = 'processing')
    OR CASE status WHEN 'completed' THEN code IS NULL
                   WHEN 'rejected'  THEN code = ANY(%(rejections)s)
                   WHEN 'failed'    THEN code IN ('gateway_unreachable', 'gateway_misconfigured', 'processor_error')
                   WHEN 'refunded'  THEN code IN ('gateway_declined', 'refunded_by_admin')
                   WHEN 'cancelled' THEN code LIKE 'cancelled_by_%%'
                                      OR code IN ('confirmation_expired', 'released', 'reservation_expired')
                   ELSE code IS NULL END IS NOT TRUE;

-- deadline_wrong --
-- No request takes anything at its deadline or later, also after it waited for a code or an approval. `deadline_passed`
-- is not used before it.
SELECT q.id::text, 'it was ' || d.status || ' at ' || d.at || '; it had to be applied before '
                   || coalesce(q.apply_before::text, 'no particular time')
  FROM requests q
  JOIN decisions d ON d.request_id = q.id
  LEFT JOIN decisions before ON before.request_id = d.request_id AND before.version = d.version - 1
 WHERE (q.apply_before <= d.at AND (d.version = 2 OR before.stage LIKE 'awaiting_%%')
        AND (d.status = 'completed' OR d.stage IN ('held', 'settling')))
    OR (d.code = 'deadline_passed' AND coalesce(d.at < q.apply_before, true));

-- sequence_wrong --
-- The decisions of a partition are numbered from 1, without gaps and without doubles. The numbers of those that have left
-- for the archive are missing, and their count and sum are known.
WITH numbered AS MATERIALIZED (
    SELECT q.partition, d.request_id, d.sequence,
           lag(d.sequence, 1, 0::bigint) OVER (PARTITION BY q.partition ORDER BY d.sequence) AS before
      FROM decisions d
      JOIN requests q ON q.id = d.request_id
     WHERE d.version = 2
)
SELECT request_id::text, 'in partition ' || partition || ', decision ' || sequence || ' follows ' || before
  FROM numbered
 WHERE sequence <> before + 1
   AND (sequence <= before OR NOT EXISTS (SELECT FROM archived_decisions a WHERE a.partition = numbered.partition))
 UNION ALL
SELECT 'partition ' || a.partition,
       coalesce(n.missing, 0) || ' numbers of decisions are missing, with the sum ' || coalesce(n.total, 0) || ', but '
       || a.decisions || ' have left, with the sum ' || a.sequences
  FROM archived_decisions a
  LEFT JOIN (SELECT partition, sum(sequence - before - 1) AS missing,
                    sum((sequence - before - 1)::numeric * (sequence + before) / 2) AS total
               FROM (SELECT partition, sequence, before
                       FROM numbered
                      UNION ALL
                     SELECT p.id, p.sequence + 1, coalesce(max(numbered.sequence), 0)
                       FROM partitions p
                       LEFT JOIN numbered ON numbered.partition = p.id
                      GROUP BY p.id, p.sequence) AS gaps
              GROUP BY partition) AS n ON n.partition = a.partition
 WHERE (a.decisions, a.sequences) IS DISTINCT FROM (n.missing, n.total);

-- partition_sequence_wrong --
-- The counter of a partition is the number of its last decision.
SELECT p.id::text, 'its sequence is ' || p.sequence || ', not that of its last decision, '
                   || greatest(n.last, a.last, 0)
  FROM partitions p
  LEFT JOIN archived_decisions a ON a.partition = p.id
  LEFT JOIN (SELECT q.partition, max(d.sequence) AS last
               FROM decisions d
               JOIN requests q ON q.id = d.request_id
              WHERE d.version = 2
              GROUP BY q.partition) AS n ON n.partition = p.id
 WHERE p.sequence <> greatest(n.last, a.last, 0);

-- usage_wrong --
-- The quantity that an account has taken or holds of each resource that has a limit now. A refund gives back to the
-- client and the account of the first request; other credits give nothing back. Entries that have left are summed up.
SELECT resource_id || ' ' || client_id || '/' || account,
       'its usage is ' || coalesce(u.used, 0) || ', but the entries say ' || coalesce(e.used, 0)
  FROM (SELECT u.resource_id, u.client_id, u.account, u.used
          FROM usages u
          LEFT JOIN resources r ON r.id = u.resource_id
         WHERE r.id IS NULL
            OR r.per_account_limit IS NOT NULL) AS u
  FULL JOIN (SELECT resource_id, client_id, account, sum(used) AS used
               FROM (SELECT e.resource_id, coalesce(first.client_id, q.client_id) AS client_id, e.account,
                    sum(CASE WHEN e.kind = 'hold' OR (e.kind = 'debit' AND q.refund_of IS NULL) THEN e.amount
                             WHEN e.kind = 'release' OR (e.kind = 'credit' AND q.refund_of IS NOT NULL) THEN -e.amount
                             ELSE 0 END) AS used
               FROM entries e
               JOIN resources r ON r.id = e.resource_id
               JOIN requests q ON q.id = e.request_id
               LEFT JOIN requests first ON first.id = q.refund_of
              WHERE r.per_account_limit IS NOT NULL
                AND e.account IS NOT NULL
              GROUP BY e.resource_id, coalesce(first.client_id, q.client_id), e.account
              UNION ALL
             SELECT a.resource_id, a.client_id, a.account, a.used
               FROM archived_usages a
               JOIN resources r ON r.id = a.resource_id AND r.per_account_limit IS NOT NULL) AS each
              GROUP BY resource_id, client_id, account) AS e
       USING (resource_id, client_id, account)
 WHERE coalesce(u.used, 0) <> coalesce(e.used, 0);

-- usage_limit_wrong --
-- The limit beside a usage is one that the resource had. If a lower limit came later, or the limit was removed, it is
-- the usage itself. If there was always a limit, no account has used more than the largest.
SELECT u.resource_id || ' ' || u.client_id || '/' || u.account,
       'it has used ' || u.used || ' within a limit of ' || u."limit" || '; the resource was given: '
       || coalesce(array_to_string(g.limits, ', ', 'none'), 'none')
  FROM usages u
  LEFT JOIN (SELECT q.resource_id,
                    array_agg(CASE jsonb_typeof(q.details -> 'per_account_limit')
                              WHEN 'number' THEN (q.details ->> 'per_account_limit')::numeric END) AS limits
               FROM requests q
               JOIN decisions d ON d.request_id = q.id AND d.current AND d.status = 'completed'
               JOIN request_kinds k USING (kind)
              WHERE k.opens
                 OR (k.amends AND q.details ? 'per_account_limit')
              GROUP BY q.resource_id) AS g ON g.resource_id = u.resource_id
 WHERE NOT EXISTS (SELECT FROM unnest(g.limits) AS given WHERE u."limit" = greatest(u.used, coalesce(given, 0)))
    OR (array_position(g.limits, NULL) IS NULL AND u.used > (SELECT max(given) FROM unnest(g.limits) AS given));

-- daily_usage_wrong --
-- Resources that have a daily limit now. The row of an account has the quantity that it took on its last day. A row of a
-- later day has none; it was written when the limit was set. An account without a row took nothing since then.
WITH tracked AS (
    SELECT r.id AS resource_id, max((d.at AT TIME ZONE 'UTC')::date) AS since
      FROM resources r
      JOIN requests q ON q.resource_id = r.id
      JOIN decisions d ON d.request_id = q.id AND d.current AND d.status = 'completed'
      JOIN request_kinds k ON k.kind = q.kind
     WHERE r.per_account_daily_limit IS NOT NULL
       AND (k.opens OR k.amends)
       AND q.details ? 'per_account_daily_limit'
     GROUP BY r.id
), taken AS (
    SELECT DISTINCT ON (1, 2, 3) resource_id, client_id, account, day, least(sum(amount), 9007199254740992) AS used
      FROM (SELECT e.resource_id, q.client_id, e.account, (e.created_at AT TIME ZONE 'UTC')::date AS day, e.amount
              FROM entries e
              JOIN tracked USING (resource_id)
              JOIN requests q ON q.id = e.request_id
             WHERE e.kind IN ('debit', 'hold')
               AND q.refund_of IS NULL
               AND e.account IS NOT NULL
             UNION ALL
            SELECT a.resource_id, a.client_id, a.account, a.day, a.day_used
              FROM archived_usages a
              JOIN tracked USING (resource_id)
             WHERE a.day IS NOT NULL) AS each
     GROUP BY 1, 2, 3, 4
     ORDER BY 1, 2, 3, 4 DESC
)
SELECT resource_id || ' ' || client_id || '/' || account,
       'it has used ' || coalesce(u.used, 0) || ' on ' || coalesce(u.day::text, 'no day') || ', but the entries say '
       || coalesce(t.used, 0) || ' on ' || coalesce(t.day::text, 'no day')
  FROM (SELECT *
          FROM daily_usages
         WHERE resource_id IN (SELECT resource_id FROM tracked)
            OR NOT EXISTS (SELECT FROM resources WHERE id = resource_id)) AS u
  FULL JOIN taken t USING (resource_id, client_id, account)
  LEFT JOIN tracked USING (resource_id)
 WHERE CASE WHEN u.used IS NULL THEN t.day < tracked.since
            WHEN t.used IS NULL OR u.day > t.day THEN u.used = 0
            ELSE u.day = t.day AND u.used = t.used END IS NOT TRUE;

-- daily_limit_wrong --
-- The limit beside a daily usage is one that the resource had, or the usage itself if the limit came later.
SELECT u.resource_id || ' ' || u.client_id || '/' || u.account,
       'it has used ' || u.used || ' within a limit of ' || u."limit" || ' for a day; the resource was given: '
       || coalesce(array_to_string(g.limits, ', ', 'none'), 'none')
  FROM daily_usages u
  LEFT JOIN (SELECT q.resource_id,
                    array_agg(CASE jsonb_typeof(q.details -> 'per_account_daily_limit')
                              WHEN 'number' THEN (q.details ->> 'per_account_daily_limit')::numeric END) AS limits
               FROM requests q
               JOIN decisions d ON d.request_id = q.id AND d.current AND d.status = 'completed'
               JOIN request_kinds k USING (kind)
              WHERE k.opens
                 OR k.amends
              GROUP BY q.resource_id) AS g ON g.resource_id = u.resource_id
 WHERE NOT EXISTS (SELECT FROM unnest(g.limits) AS given WHERE u."limit" = greatest(u.used, coalesce(given, 0)));
