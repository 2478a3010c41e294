-- Replays and refunds of many failed requests.

-- read_now --
SELECT clock_timestamp();

-- begin --
-- Returns no row if the action has begun already.
INSERT INTO bulk_actions (id, action, reason, filter, actor, client_id, key_id)
VALUES (%(id)s, %(action)s, %(reason)s, %(filter)s, %(actor)s, %(client)s, %(key_id)s)
    ON CONFLICT (id) DO NOTHING
RETURNING id;

-- choose_items --
-- The requests that match now, in the order of their first decisions.
INSERT INTO bulk_items (action_id, place, request_id, version)
SELECT %(id)s, row_number() OVER (ORDER BY r.partition, d.sequence), d.request_id, d.version
  FROM decisions d
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = d.request_id LIMIT 1) AS r
 WHERE {filters};

-- count_items --
-- An action without requests is over at once.
UPDATE bulk_actions
   SET matched = %(matched)s, finished_at = CASE WHEN %(matched)s = 0 THEN clock_timestamp() END
 WHERE id = %(id)s;

-- lock_action --
-- Returns no row if the action is over, or another process runs a part of it.
SELECT {action_columns}
  FROM bulk_actions
 WHERE id = %(id)s
   AND finished_at IS NULL
   FOR UPDATE SKIP LOCKED;

-- is_key_valid --
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

-- stop --
UPDATE bulk_actions
   SET finished_at = clock_timestamp(), stopped_by = %(stopped_by)s
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
-- The items with the states of their requests and refunds, in order.
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
-- The last status of each request that was sent, and whether it is later than the sending.
SELECT d.status, d.version > i.version, count(*)
  FROM bulk_items i
 CROSS JOIN LATERAL (SELECT status, version FROM decisions WHERE decisions.request_id = i.request_id
                      ORDER BY version DESC LIMIT 1) AS d
 WHERE i.action_id = %(id)s
   AND i.outcome = 'sent'
 GROUP BY 1, 2;

-- count_refunds --
-- The status of each refund; NULL: not decided yet.
SELECT f.status, count(*)
  FROM bulk_items i
  LEFT JOIN LATERAL (SELECT status FROM decisions WHERE decisions.request_id = i.refund_id
                      ORDER BY version DESC LIMIT 1) AS f ON true
 WHERE i.action_id = %(id)s
   AND i.outcome = 'sent'
 GROUP BY 1;
