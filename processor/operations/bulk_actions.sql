-- What people do to many parked requests at once.

-- read_now --
SELECT clock_timestamp();

-- begin --
-- Begun once, however often the form is sent.
INSERT INTO bulk_actions (id, action, reason, filter, actor, client_id, key_id)
VALUES (%(id)s, %(action)s, %(reason)s, %(filter)s, %(actor)s, %(client)s, %(key_id)s)
    ON CONFLICT (id) DO NOTHING
RETURNING id;

-- choose_items --
-- Whatever matches at this moment, in the order in which it was decided at first.
INSERT INTO bulk_items (action_id, place, request_id, version)
SELECT %(id)s, row_number() OVER (ORDER BY r.partition, d.sequence), d.request_id, d.version
  FROM decisions d
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = d.request_id LIMIT 1) AS r
 WHERE {filters};

-- count_items --
-- An action on nothing is over.
UPDATE bulk_actions
   SET matched = %(matched)s, finished_at = CASE WHEN %(matched)s = 0 THEN clock_timestamp() END
 WHERE id = %(id)s;

-- lock_action --
-- To do its next part; nothing when somebody else is at it, or it is over.
SELECT {action_columns}
  FROM bulk_actions
 WHERE id = %(id)s
   AND finished_at IS NULL
   FOR UPDATE SKIP LOCKED;

-- is_key_valid --
-- Whether whoever began it may still do anything.
SELECT EXISTS (SELECT FROM api_keys
                WHERE id = %(key_id)s
                  AND revoked_at IS NULL
                  AND (expires_at IS NULL OR expires_at > clock_timestamp()));

-- next_items --
SELECT place, request_id
  FROM bulk_items
 WHERE action_id = %(id)s
   AND place > %(done)s
 ORDER BY place
 LIMIT %(limit)s;

-- read_originals --
-- What refunds are of.
SELECT r.id, r.resource_id, r.account
  FROM requests r
 WHERE r.id = ANY(%(ids)s::uuid[]);

-- record_items --
UPDATE bulk_items i
   SET outcome = v.outcome, problem = v.problem, refund_id = v.refund_id
  FROM unnest(%(places)b::integer[], %(outcomes)b::text[], %(problems)b::text[], %(refund_ids)b::uuid[])
       AS v(place, outcome, problem, refund_id)
 WHERE i.action_id = %(id)s
   AND i.place = v.place;

-- record_progress --
UPDATE bulk_actions
   SET done = %(done)s, sent = sent + %(sent)s,
       finished_at = CASE WHEN %(done)s >= matched THEN clock_timestamp() END
 WHERE id = %(id)s
RETURNING finished_at IS NOT NULL;

-- note_refunds --
INSERT INTO audit (actor, action, request_id, reason, detail)
SELECT %(actor)s, 'refund', v.request_id, %(reason)s, jsonb_build_object('refund', v.refund_id, 'bulk', %(id)s::text)
  FROM unnest(%(request_ids)b::uuid[], %(refund_ids)b::uuid[]) AS v(request_id, refund_id);

-- stop --
-- What is not sent yet will not be.
UPDATE bulk_actions
   SET finished_at = clock_timestamp(), stopped_by = %(actor)s
 WHERE id = %(id)s
   AND finished_at IS NULL
RETURNING id;

-- action_columns --
id, action, reason, filter, actor, client_id, key_id, matched, done, sent, started_at, finished_at, stopped_by

-- read_action --
SELECT {action_columns}
  FROM bulk_actions
 WHERE id = %(id)s;

-- list_actions --
SELECT {action_columns}
  FROM bulk_actions
 ORDER BY started_at DESC, id DESC
 LIMIT %(limit)s;

-- list_items --
-- What became of each, in their order. Of a refund, its own state says it.
SELECT i.place, i.request_id, i.version, i.outcome, i.problem, i.refund_id, r.resource_id, r.account, r.amount,
       d.version, d.status, d.stage, d.code, d.reason, f.status, f.code
  FROM (SELECT * FROM bulk_items WHERE action_id = %(id)s AND place > %(after)s ORDER BY place LIMIT %(limit)s) AS i
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = i.request_id LIMIT 1) AS r
 CROSS JOIN LATERAL (SELECT * FROM decisions WHERE decisions.request_id = i.request_id
                      ORDER BY version DESC LIMIT 1) AS d
  LEFT JOIN LATERAL (SELECT * FROM decisions WHERE decisions.request_id = i.refund_id
                      ORDER BY version DESC LIMIT 1) AS f ON true
 ORDER BY i.place;

-- count_results --
-- What became of all that were sent: of each its last version, and whether that is later than when it was sent.
SELECT d.status, d.version > i.version, count(*)
  FROM bulk_items i
 CROSS JOIN LATERAL (SELECT status, version FROM decisions WHERE decisions.request_id = i.request_id
                      ORDER BY version DESC LIMIT 1) AS d
 WHERE i.action_id = %(id)s
   AND i.outcome = 'sent'
 GROUP BY 1, 2;

-- count_refunds --
-- What became of all refunds that were made; NULL: not decided yet.
SELECT f.status, count(*)
  FROM bulk_items i
  LEFT JOIN LATERAL (SELECT status FROM decisions WHERE decisions.request_id = i.refund_id
                      ORDER BY version DESC LIMIT 1) AS f ON true
 WHERE i.action_id = %(id)s
   AND i.outcome = 'sent'
 GROUP BY 1;
