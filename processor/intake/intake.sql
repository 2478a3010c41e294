-- Acceptance of requests: the only write on the API's hot path.

-- accept_requests --
-- Stores a group of requests and their inbox rows in one statement, so in one transaction. Requests are inserted in the
-- order of client and key, so that groups of several processes with the same keys cannot deadlock. Inbox rows are
-- inserted in the order of arrival. Returns the time of acceptance, and the number of requests that were the first with
-- their key. If that is not all of them, read_accepted returns which.
WITH asked AS (
    SELECT *
      FROM unnest(%(id)b::uuid[], %(client_id)b::text[], %(created_by)b::uuid[], %(idempotency_key)b::text[],
                  %(fingerprint)b::bytea[], %(kind)b::text[], %(partition)b::smallint[], %(resource_id)b::text[],
                  %(account)b::text[], %(amount)b::bigint[], %(apply_before)b::timestamptz[], %(refund_of)b::uuid[],
                  %(details)b::text[], %(metadata)b::text[])
      WITH ORDINALITY
        AS v(id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account, amount,
             apply_before, refund_of, details, metadata, arrival)
), won AS (
    INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id,
                          account, amount, apply_before, refund_of, details, metadata)
    SELECT id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account, amount,
           apply_before, refund_of, details::jsonb, metadata::jsonb
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
-- A part of accept_requests: the audit lines of those requests that were the first with their key.
, audited AS (
    INSERT INTO audit (actor, action, request_id, reason, detail)
    SELECT actor, action, request_id, reason, detail::jsonb
      FROM unnest(%(audit_of)b::uuid[], %(audit_actor)b::text[], %(audit_action)b::text[],
                  %(audit_request_id)b::uuid[], %(audit_reason)b::text[], %(audit_detail)b::text[])
        AS line(id, actor, action, request_id, reason, detail)
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
