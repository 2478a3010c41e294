-- Deliveries by webhook and e-mail. Each step is one statement, so a courier that is suspended holds no row lock.
-- {request_columns} is the select list of processor/records/documents.py.

-- expand --
-- Make deliveries from fanout rows, the oldest first. The types are those of `domain/model.event_of`. Each row is expanded once and as a whole, because the DELETE of
-- a second courier does not find it.
WITH taken AS (
    DELETE FROM fanouts
     WHERE id IN (SELECT id FROM fanouts ORDER BY id LIMIT %(limit)s)
 RETURNING id, webhook_id, request_ids, versions
)
INSERT INTO deliveries (request_id, version, type, webhook_id)
SELECT news.request_id, news.version,
       CASE WHEN d.status = 'completed' AND d.refunded > 0 THEN 'request.partially_refunded' ELSE 'request.' || d.status END,
       taken.webhook_id
  FROM taken
 CROSS JOIN LATERAL unnest(taken.request_ids, taken.versions) WITH ORDINALITY AS news(request_id, version, place)
  JOIN decisions d ON d.request_id = news.request_id AND d.version = news.version
 ORDER BY taken.id, news.place;

-- due_endpoints --
-- Webhooks behind a given one that have deliveries, and the seconds until the first delivery is due. Each webhook costs
-- one step in the index, independent of its backlog.
WITH RECURSIVE waiting AS (
    (SELECT webhook_id, due_at, 1 AS number
       FROM deliveries
      WHERE due_at IS NOT NULL
        AND webhook_id > %(after)s
      ORDER BY webhook_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.webhook_id, following.due_at, waiting.number + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT d.webhook_id, d.due_at
                           FROM deliveries d
                          WHERE d.due_at IS NOT NULL
                            AND d.webhook_id > waiting.webhook_id
                          ORDER BY d.webhook_id, d.due_at
                          LIMIT 1) AS following
     WHERE waiting.number < %(limit)s
)
SELECT webhook_id, greatest(0, extract(epoch FROM due_at - clock_timestamp()))::float8
  FROM waiting
 ORDER BY number;

-- claim_webhooks --
-- The oldest deliveries of each endpoint that are due, within its room, get a token and a lease. Returns each with its
-- request as it was in that version.
WITH due AS (
    SELECT oldest.id
      FROM unnest(%(webhook_ids)b::uuid[], %(room)b::integer[]) AS v(webhook_id, room)
     CROSS JOIN LATERAL (SELECT d.id
                           FROM deliveries d
                          WHERE d.webhook_id = v.webhook_id
                            AND d.due_at <= statement_timestamp()
                          ORDER BY d.due_at
                          LIMIT v.room
                            FOR UPDATE SKIP LOCKED) AS oldest
), claimed AS (
    UPDATE deliveries c
       SET token = gen_random_uuid(), tries = c.tries + 1,
           due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
      FROM due
     WHERE c.id = due.id
 RETURNING c.id, c.token, c.tries, c.type, c.webhook_id, c.request_id, c.version
)
SELECT c.id, c.token, c.tries, c.type, c.webhook_id, w.url,
       CASE WHEN w.previous_until > statement_timestamp() THEN ARRAY[w.secret, w.previous_secret] ELSE ARRAY[w.secret] END,
       w.disabled_at IS NOT NULL,
       {request_columns}
  FROM claimed c
  JOIN requests r ON r.id = c.request_id
  JOIN decisions d ON d.request_id = c.request_id AND d.version = c.version
  LEFT JOIN webhooks w ON w.id = c.webhook_id
 ORDER BY c.id;

-- claim_mails --
-- The oldest e-mails that are due get a token and a lease. Returns each with its request as it was in that version.
WITH due AS (
    SELECT id
      FROM deliveries
     WHERE webhook_id IS NULL
       AND due_at <= statement_timestamp()
     ORDER BY due_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE deliveries c
       SET token = gen_random_uuid(), tries = c.tries + 1,
           due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
      FROM due
     WHERE c.id = due.id
 RETURNING c.id, c.token, c.tries, c.email, c.request_id, c.version
)
SELECT c.id, c.token, c.tries, c.email, {request_columns}
  FROM claimed c
  JOIN requests r ON r.id = c.request_id
  JOIN decisions d ON d.request_id = c.request_id AND d.version = c.version
 ORDER BY c.id;

-- next_mail --
-- Seconds until the first e-mail is due. Null: there is none.
SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8
  FROM deliveries
 WHERE webhook_id IS NULL
   AND due_at IS NOT NULL;

-- record_deliveries --
-- Results count while their token is valid: delivered, failed, or pending until the end of a pause. An endpoint that is
-- gone is disabled.
WITH tries AS (
    SELECT *
      FROM unnest(%(ids)b::bigint[], %(tokens)b::uuid[], %(statuses)b::text[], %(http_statuses)b::smallint[],
                  %(errors)b::text[], %(pauses)b::float8[])
           AS t(id, token, status, http_status, error, pause_seconds)
), disabled AS (
    UPDATE webhooks
       SET disabled_at = clock_timestamp(), disabled_reason = %(gone_reason)s
     WHERE id = ANY(%(gone)b)
       AND disabled_at IS NULL
)
UPDATE deliveries d
   SET status = t.status, token = NULL, last_status = t.http_status, last_error = t.error,
       due_at = statement_timestamp() + t.pause_seconds * interval '1 second',
       delivered_at = CASE t.status WHEN 'delivered' THEN clock_timestamp() END
  FROM tries t
 WHERE d.id = t.id
   AND d.token = t.token;
