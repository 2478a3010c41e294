-- Acceptance of requests: the only write on the API's hot path.

-- accept_requests --
-- Stores a group of requests and their inbox rows in one statement, so in one transaction. Requests are inserted in the
-- order of client and key, so that groups of several processes with the same keys cannot deadlock. Inbox rows are
-- inserted in the order of arrival. Returns the time of acceptance, and the number of requests that were the first with
-- their key. If that is not all of them, read_accepted returns which.
--
-- The ids are made here, so that they sort as `created_at` does: milliseconds, the version 7, 1/4096 milliseconds, and
-- the eight bytes of the caller. `processor/ids.py` makes the same ids from the time that is returned.
WITH moment AS MATERIALIZED (
    SELECT int8send(((us / 1000) << 16) | 28672 | (mod(us, 1000) * 4096 / 1000)) AS head
      FROM (SELECT (extract(epoch FROM now()) * 1000000)::bigint AS us) AS clock
), asked AS (
    SELECT encode(head || int8send(tail), 'hex')::uuid AS id, v.*
      FROM moment,
           unnest(%(tail)b::bigint[], %(client_id)b::text[], %(created_by)b::uuid[], %(idempotency_key)b::text[],
                  %(fingerprint)b::bytea[], %(kind)b::text[], %(partition)b::smallint[], %(resource_id)b::text[],
                  %(account)b::text[], %(amount)b::bigint[], %(apply_before)b::timestamptz[], %(refund_of)b::uuid[],
                  %(details)b::text[], %(metadata)b::text[], %(x_request_id)b::text[], %(traceparent)b::text[])
      WITH ORDINALITY
        AS v(tail, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account, amount,
             apply_before, refund_of, details, metadata, x_request_id, traceparent, arrival)
), won AS (
    INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id,
                          account, amount, apply_before, refund_of, details, metadata, x_request_id, traceparent)
    SELECT id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account, amount,
           apply_before, refund_of, details::jsonb, metadata::jsonb, x_request_id, traceparent
      FROM asked
     ORDER BY client_id, idempotency_key, arrival
        ON CONFLICT (client_id, idempotency_key) DO NOTHING
    RETURNING id
), queued AS (
    INSERT INTO inbox (partition, request_id, verb)
    SELECT asked.partition, asked.id, 'decide'
      FROM asked
      JOIN won USING (id)
     ORDER BY asked.arrival
){audit_lines}
SELECT count(*), now()
  FROM won;

-- audit_lines --
-- A part of accept_requests: the audit lines of those requests that were the first with their key. Each detail names
-- the new request.
, audited AS (
    INSERT INTO audit (actor, action, request_id, reason, detail)
    SELECT line.actor, line.action, line.request_id, line.reason,
           jsonb_build_object(asked.kind, asked.id) || coalesce(line.detail::jsonb, '{}')
      FROM unnest(%(audit_of)b::bigint[], %(audit_actor)b::text[], %(audit_action)b::text[],
                  %(audit_request_id)b::uuid[], %(audit_reason)b::text[], %(audit_detail)b::text[])
        AS line(tail, actor, action, request_id, reason, detail)
      JOIN asked USING (tail)
      JOIN won USING (id)
)

-- read_accepted --
SELECT id
  FROM requests
 WHERE id = ANY(%(ids)b::uuid[]);

-- read_by_keys --
-- The first requests with these keys, and the fingerprints of their bodies.
SELECT r.idempotency_key, r.fingerprint, {request_columns}
  FROM {request_tables}
 WHERE (r.client_id, r.idempotency_key) IN (SELECT * FROM unnest(%(client_ids)b::text[], %(idempotency_keys)b::text[]));
