-- The records of one request, each found by an index; and the requests that wait for an approval.

-- read_states --
-- Oldest first.
SELECT version, at, status, stage, code, reason, reference, refunded, actor, detail, trace
  FROM decisions
 WHERE request_id = %(id)s
 ORDER BY version;

-- read_pending --
SELECT verb, created_at, payload ->> 'actor'
  FROM inbox
 WHERE request_id = %(id)s
   AND leg = 0
 ORDER BY seq;

-- read_effect --
SELECT gateway, due_at, tries, leased_until IS NOT NULL AND leased_until > clock_timestamp(), outcome, reference, reason,
       voided_at
  FROM effects
 WHERE request_id = %(id)s
 ORDER BY leg
 LIMIT 1;

-- is_holding --
-- Whether it has a hold that was neither captured nor released.
SELECT EXISTS (SELECT FROM entries WHERE request_id = %(id)s AND kind = 'hold')
       AND NOT EXISTS (SELECT FROM entries WHERE request_id = %(id)s AND kind IN ('capture', 'release'));

-- read_origin --
SELECT r.idempotency_key, k.id, k.client_id, k.name, k.role, r.x_request_id, r.traceparent
  FROM requests r
  LEFT JOIN api_keys k ON k.id = r.created_by
 WHERE r.id = %(id)s;

-- list_refunds --
-- Newest first.
SELECT {request_columns}
  FROM {request_tables}
 WHERE r.refund_of = %(id)s
 ORDER BY r.id DESC
 LIMIT %(limit)s;

-- list_deliveries --
-- Oldest first.
SELECT d.id, d.type, d.version, d.webhook_id, w.url, w.disabled_at IS NOT NULL, d.email, d.status, d.tries, d.due_at,
       d.last_status, d.last_error, d.created_at, d.delivered_at
  FROM deliveries d
  LEFT JOIN webhooks w ON w.id = d.webhook_id
 WHERE d.request_id = %(id)s
 ORDER BY d.id
 LIMIT %(limit)s;

-- list_awaiting --
-- The request that has waited longest is first.
SELECT t.unit, coalesce(t.decimals, 0), t.approve_above, k.name,
       (SELECT verb FROM inbox WHERE inbox.request_id = d.request_id AND verb IN ('approve', 'deny', 'cancel') LIMIT 1),
       {request_columns}
  FROM (SELECT * FROM decisions
         WHERE current AND stage = 'awaiting_approval'
           AND (%(after)s::uuid IS NULL OR request_id > %(after)s)
         ORDER BY request_id
         LIMIT %(limit)s) AS d
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = d.request_id LIMIT 1) AS r
  LEFT JOIN LATERAL (SELECT unit, decimals, approve_above FROM resources WHERE resources.id = r.resource_id LIMIT 1) AS t ON true
  LEFT JOIN LATERAL (SELECT name FROM api_keys WHERE api_keys.id = r.created_by LIMIT 1) AS k ON true
 ORDER BY d.request_id;
