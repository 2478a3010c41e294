-- The inbox in one batch: its partitions are locked, their oldest rows taken and at the end deleted, in the transaction of
-- `processor/batch/run.py`.

-- begin_batch --
-- The timeouts, in milliseconds, limit every wait of the batch. Returns the number of partitions, and the oldest
-- transaction that has not ended: the take sees the rows of all before it.
SELECT set_config('statement_timeout', %(statement_ms)s::text, true),
       set_config('lock_timeout', %(lock_ms)s::text, true),
       set_config('idle_in_transaction_session_timeout', %(idle_ms)s::text, true),
       (SELECT partitions FROM installation),
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- lock_partitions --
-- Takes the lock of each partition, in the order given, which allows one batch at a time. A lock that another backend
-- holds is not waited for, because the other partitions would wait with it. The locks end with the transaction, so they
-- work behind PgBouncer and end with their connection. This is a statement of its own: later statements see everything
-- that was committed before the locks were granted.
SELECT id, pg_try_advisory_xact_lock(%(lock_class)s, id)
  FROM unnest(%(partitions)b::integer[]) AS id;

-- lock_partitions_in_turn --
-- The same for a batch that needs all of its partitions: it waits for each lock, up to the lock timeout. Such batches
-- cannot deadlock, because each waits for a lock only while it holds lower ones, and other batches wait for none.
SELECT id, pg_advisory_xact_lock(%(lock_class)s, id) IS NOT NULL
  FROM unnest(%(partitions)b::integer[]) AS id;

-- take_inbox --
-- The oldest work of each partition, with its requests, above its low-water mark. Below the mark are only dead rows: all
-- rows that were decided since the oldest snapshot that is still in use.
--
-- Each partition gets up to its share. Deep partitions divide among them the rows that shallow ones leave. So a
-- partition with a single row is in every batch, beside one in which 100,000 wait.
-- The limit of a depth is a query, because a planner without statistics would otherwise read and sort all that waits.
-- The LATERAL joins go row by row, because the planner would otherwise read all requests. A row whose request does not
-- exist, or is of another partition, has no request here. A row of a later leg has its request, which is of another one.
WITH depths AS MATERIALIZED (
    SELECT p.id, p.low_water,
           (SELECT count(*)
              FROM (SELECT
                      FROM inbox
                     WHERE inbox.partition = p.id
                       AND seq > p.low_water
                     ORDER BY seq
                     LIMIT (SELECT %(share)s::bigint)) AS oldest) AS depth
      FROM partitions p
     WHERE p.id = ANY(%(partitions)b::smallint[])
       AND NOT EXISTS (SELECT FROM pauses WHERE pauses.partition = p.id)
), rations AS (
    SELECT id, low_water,
           CASE WHEN depth < %(share)s THEN depth
                ELSE %(share)s + greatest(0, %(batch_limit)s - sum(depth) OVER ())
                               / count(*) FILTER (WHERE depth >= %(share)s) OVER ()
            END AS ration
      FROM depths
     WHERE depth > 0
)
SELECT i.seq, rations.id, i.verb, i.payload, i.leg, i.ctid,
       r.id, r.client_id, r.kind, r.resource_id, r.account, r.amount, r.apply_before, r.details, r.refund_of
  FROM rations
 CROSS JOIN LATERAL (SELECT seq, verb, payload, leg, ctid, request_id
                       FROM inbox
                      WHERE inbox.partition = rations.id
                        AND seq > rations.low_water
                      ORDER BY seq
                      LIMIT rations.ration) i
  LEFT JOIN LATERAL (SELECT *
                       FROM requests
                      WHERE requests.id = i.request_id
                        AND (requests.partition = rations.id OR i.leg > 0)
                      LIMIT 1) r ON true;

-- take_expired --
-- The reservations of these partitions whose time is over, the first to expire first, in the columns of take_inbox. A
-- reservation whose capture or release was accepted does not expire. One that a call is about to accept is left for the
-- next look. One with legs needs all of its partitions, and none of them may be paused.
SELECT row_number() OVER (ORDER BY v.expires_at, v.request_id), v.partition, 'expire', NULL::jsonb, 0::smallint,
       NULL::tid,
       r.id, r.client_id, r.kind, r.resource_id, r.account, r.amount, r.apply_before, r.details, r.refund_of
  FROM (SELECT request_id, partition, expires_at
          FROM reservations
         WHERE partition = ANY(%(partitions)b::smallint[])
           AND command IS NULL
           AND expires_at <= clock_timestamp()
           AND (partitions IS NULL OR partitions <@ %(partitions)b::smallint[])
           AND NOT EXISTS (SELECT FROM pauses WHERE pauses.partition = reservations.partition)
           AND (partitions IS NULL OR NOT EXISTS (SELECT FROM pauses WHERE pauses.partition = ANY(reservations.partitions)))
           AND EXISTS (SELECT FROM decisions d WHERE d.request_id = reservations.request_id AND d.current AND d.stage = 'held')
         ORDER BY expires_at
         LIMIT %(batch_limit)s
           FOR UPDATE OF reservations SKIP LOCKED) AS v
 CROSS JOIN LATERAL (SELECT *
                       FROM requests
                      WHERE requests.id = v.request_id
                      LIMIT 1) AS r;

-- read_partitions --
-- The number of each partition's last decision, whether it is paused, and the commands to cancel that wait. A cancel
-- counts when the turn of its request comes, before its own. The last column is the time of this batch.
SELECT p.id, p.sequence, EXISTS (SELECT FROM pauses WHERE pauses.partition = p.id),
       (SELECT jsonb_object_agg(request_id, payload) FROM inbox WHERE inbox.partition = p.id AND verb = 'cancel'),
       clock_timestamp()
  FROM partitions p
 WHERE p.id = ANY(%(partitions)b::smallint[]);

-- delete_strays --
-- Deletes rows without a request of their partition. The API writes none.
DELETE FROM inbox
 WHERE ctid = ANY(ARRAY(SELECT i.place
                          FROM unnest(%(partitions)b::smallint[], %(seqs)b::bigint[]) AS v(partition, seq)
                         CROSS JOIN LATERAL (SELECT ctid AS place
                                               FROM inbox
                                              WHERE inbox.partition = v.partition
                                                AND inbox.seq = v.seq
                                              LIMIT 1) i));

-- note_misplaced --
INSERT INTO alarms (code, partition, detail)
SELECT 'misplaced', v.partition, v.detail
  FROM unnest(%(partitions)b::smallint[], %(details)b::text[]) AS v(partition, detail)
    ON CONFLICT (code, partition) DO UPDATE SET detail = excluded.detail, seen_at = clock_timestamp();

-- finish_partitions --
-- Deletes the rows and counts the decisions, in each partition only if every one of its rows was still there. The rows
-- are found by their place. No inbox row is ever updated, and a place that was used again has another seq. So as many
-- rows as were taken are the rows that were taken.
--
-- The low-water mark: no live row of this partition has seq <= low_water.
-- 1. This batch took every visible row of the partition up to last_seq.
-- 2. An invisible row with a lower seq belongs to a transaction with a lower xid
--    (the trigger assigns the xid before the seq).
-- 3. A batch that starts after all transactions below next_xid have ended sees every such row.
-- 4. So low_water may become next_low_water then.
WITH gone AS (
    DELETE FROM inbox
     WHERE ctid = ANY(ARRAY(SELECT unnest(%(ctids)b::tid[])))  -- a known list of places would be read by a scan
       AND seq + 0 = ANY(%(seqs)b::bigint[])  -- by no index
    RETURNING partition
)
UPDATE partitions p
   SET sequence = v.sequence, drained_at = clock_timestamp(),
       low_water = CASE WHEN next_xid <= %(settled_xid)s THEN greatest(low_water, least(next_low_water, v.last_seq))
                        ELSE low_water END,
       next_low_water = CASE WHEN next_xid <= %(settled_xid)s THEN v.last_seq ELSE next_low_water END,
       next_xid = CASE WHEN next_xid <= %(settled_xid)s THEN pg_current_xact_id()::text::bigint ELSE next_xid END
  FROM unnest(%(partitions)b::smallint[], %(sequences)b::bigint[], %(counts)b::bigint[], %(last_seqs)b::bigint[])
       AS v(partition, sequence, rows, last_seq)
  JOIN (SELECT partition, count(*) AS rows FROM gone GROUP BY partition) AS deleted USING (partition, rows)
 WHERE p.id = v.partition;
