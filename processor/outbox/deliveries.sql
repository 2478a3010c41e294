-- Deliveries by webhook and e-mail. Each step is one statement, so a courier that is suspended holds no row lock.
-- {request_columns} is the select list of processor/records/documents.py.

-- expand --
-- Make deliveries from fanout rows. The webhooks behind a given one take turns, each with its oldest rows, up to a number
-- of deliveries. Each row is expanded once and as a whole, because the DELETE of a second courier does not find it.
-- Returns the number of deliveries, and the last webhook.
WITH RECURSIVE waiting AS (
    (SELECT webhook_id, 1 AS place
       FROM fanouts
      WHERE webhook_id > %(after)s
      ORDER BY webhook_id
      LIMIT 1)
    UNION ALL
    SELECT following.webhook_id, waiting.place + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT f.webhook_id
                           FROM fanouts f
                          WHERE f.webhook_id > waiting.webhook_id
                          ORDER BY f.webhook_id
                          LIMIT 1) AS following
     WHERE waiting.place < %(fanouts)s
), turns AS MATERIALIZED (
    SELECT waiting.webhook_id, waiting.place, oldest.row, oldest.size,
           row_number() OVER (PARTITION BY waiting.webhook_id ORDER BY oldest.id) AS number
      FROM waiting
     CROSS JOIN LATERAL (SELECT f.ctid AS row, f.id, cardinality(f.request_ids) AS size
                           FROM fanouts f
                          WHERE f.webhook_id BETWEEN waiting.webhook_id AND waiting.webhook_id  -- by this index alone
                          ORDER BY f.webhook_id, f.id
                          LIMIT greatest(1, %(fanouts)s / (SELECT count(*) FROM waiting))) AS oldest
), chosen AS MATERIALIZED (
    SELECT turns.row, turns.webhook_id, turns.place
      FROM (SELECT *, sum(size) OVER (ORDER BY number, place) - size AS before FROM turns) AS turns
     WHERE turns.before < %(deliveries)s
), taken AS (
    DELETE FROM fanouts
     WHERE ctid = ANY(ARRAY(SELECT chosen.row FROM chosen))
 RETURNING id, webhook_id, request_ids, versions
), made AS (
    INSERT INTO deliveries (request_id, version, type, webhook_id)
    SELECT news.request_id, news.version,
           CASE WHEN d.status = 'completed' AND d.refunded > 0 THEN 'request.partially_refunded'  -- as `model.event_of`
                ELSE 'request.' || d.status END,
           taken.webhook_id
      FROM taken
     CROSS JOIN LATERAL unnest(taken.request_ids, taken.versions) WITH ORDINALITY AS news(request_id, version, place)
     CROSS JOIN LATERAL (SELECT status, refunded
                           FROM decisions
                          WHERE decisions.request_id = news.request_id
                            AND decisions.version = news.version
                          LIMIT 1) AS d
     ORDER BY taken.id, news.place
 RETURNING 1
)
SELECT (SELECT count(*) FROM made), (SELECT webhook_id FROM chosen ORDER BY place DESC LIMIT 1);

-- due_endpoints --
-- Webhooks behind a given one that have deliveries, and the seconds until the first delivery is due. Each webhook costs
-- one step in the index, independent of its backlog. Then whether its deliveries end, because it was deleted or disabled.
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
SELECT waiting.webhook_id, greatest(0, extract(epoch FROM waiting.due_at - clock_timestamp()))::float8,
       w.id IS NULL OR w.disabled_at IS NOT NULL
  FROM waiting
  LEFT JOIN LATERAL (SELECT id, disabled_at FROM webhooks WHERE webhooks.id = waiting.webhook_id LIMIT 1) AS w ON true
 ORDER BY waiting.number;

-- end_deliveries --
-- The deliveries to webhooks that were deleted or disabled have failed, some at a time. Those under way are recorded first.
-- The inner limit is a query, so that the planner expects few rows: for many it would read and sort all. The deliveries
-- are found by their place alone, because a join could read all deliveries of a webhook.
UPDATE deliveries d
   SET status = 'failed', due_at = NULL, token = NULL,
       last_error = coalesce((SELECT 'the webhook is disabled' FROM webhooks WHERE webhooks.id = d.webhook_id LIMIT 1),
                             'the webhook was deleted')
 WHERE d.ctid = ANY(ARRAY(SELECT waiting.row
                            FROM unnest(%(webhook_ids)b::uuid[]) AS v(webhook_id)
                           CROSS JOIN LATERAL (SELECT ctid AS row
                                                 FROM deliveries
                                                WHERE deliveries.webhook_id = v.webhook_id
                                                  AND deliveries.due_at IS NOT NULL
                                                  AND (deliveries.token IS NULL
                                                       OR deliveries.due_at <= statement_timestamp())
                                                ORDER BY deliveries.webhook_id, deliveries.due_at
                                                LIMIT (SELECT %(limit)s::bigint)
                                                  FOR UPDATE SKIP LOCKED) AS waiting
                           WHERE (SELECT disabled_at IS NULL FROM webhooks WHERE webhooks.id = v.webhook_id LIMIT 1)
                                 IS NOT TRUE
                           LIMIT %(limit)s));

-- claim_webhooks --
-- The oldest deliveries of each endpoint that are due, within its room, get a token and a lease. Returns each with its
-- request as it was in that version. The rows are updated by their place, and joined one by one. For a planner that expects
-- more of them, a join would read all that wait.
WITH due AS MATERIALIZED (
    SELECT oldest.row
      FROM unnest(%(webhook_ids)b::uuid[], %(room)b::integer[]) AS v(webhook_id, room)
     CROSS JOIN LATERAL (SELECT d.ctid AS row
                           FROM deliveries d
                          WHERE d.webhook_id = v.webhook_id
                            AND d.due_at <= statement_timestamp()
                          ORDER BY d.webhook_id, d.due_at
                          LIMIT v.room
                            FOR UPDATE SKIP LOCKED) AS oldest
), claimed AS (
    UPDATE deliveries c
       SET token = gen_random_uuid(), tries = c.tries + 1,
           due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
     WHERE c.ctid = ANY(ARRAY(SELECT due.row FROM due))
 RETURNING c.id, c.token, c.tries, c.type, c.webhook_id, c.request_id, c.version
)
SELECT c.id, c.token, c.tries, c.type, c.webhook_id, w.url,
       CASE WHEN w.previous_until > statement_timestamp() THEN ARRAY[w.secret, w.previous_secret] ELSE ARRAY[w.secret] END,
       w.disabled_at IS NOT NULL, r.x_request_id, r.traceparent,
       {request_columns}
  FROM claimed c
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = c.request_id LIMIT 1) AS r
 CROSS JOIN LATERAL (SELECT *
                       FROM decisions
                      WHERE decisions.request_id = c.request_id
                        AND decisions.version = c.version
                      LIMIT 1) AS d
  LEFT JOIN LATERAL (SELECT * FROM webhooks WHERE webhooks.id = c.webhook_id LIMIT 1) AS w ON true
 ORDER BY c.id;

-- due_mails --
-- Clients behind a given one that have e-mails, and the seconds until the first is due. Each client costs one step in the
-- index.
WITH RECURSIVE waiting AS (
    (SELECT client_id, due_at, 1 AS number
       FROM deliveries
      WHERE webhook_id IS NULL
        AND due_at IS NOT NULL
        AND client_id > %(after)s
      ORDER BY client_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.client_id, following.due_at, waiting.number + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT d.client_id, d.due_at
                           FROM deliveries d
                          WHERE d.webhook_id IS NULL
                            AND d.due_at IS NOT NULL
                            AND d.client_id > waiting.client_id
                          ORDER BY d.client_id, d.due_at
                          LIMIT 1) AS following
     WHERE waiting.number < %(limit)s
)
SELECT client_id, greatest(0, extract(epoch FROM due_at - clock_timestamp()))::float8
  FROM waiting
 ORDER BY number;

-- claim_mails --
-- E-mails of a client that are due get a token and a lease. Returns each with its request as it was in that version.
-- 1. `oldest` is a part of them, in the order of due_at. In it, the mailboxes take turns.
-- 2. A first try counts for its mailbox and the hour. Beyond the limit, a mail waits for the next hour, or for a day at
--    most. Then it has failed.
-- 3. When the mails of all clients to a mailbox reach their limit, each client has a small share left. Each count is at
--    least one mail, so reading as many counts as the limit suffices.
-- 4. Counts of hours before are deleted, some at a time.
WITH oldest AS MATERIALIZED (
    SELECT d.ctid AS row, lower(d.email) AS mailbox, d.due_at, d.created_at, d.tries,
           sum((d.tries = 0)::integer) OVER (PARTITION BY lower(d.email) ORDER BY d.due_at, d.id) AS number
      FROM (SELECT ctid, id, email, due_at, created_at, tries
              FROM deliveries
             WHERE webhook_id IS NULL
               AND client_id BETWEEN %(client)s AND %(client)s  -- by this index alone
               AND due_at <= statement_timestamp()
             ORDER BY client_id, due_at
             LIMIT (SELECT %(window)s::bigint)) AS d
), sent AS MATERIALIZED (
    SELECT o.mailbox, coalesce(own.mails, 0) AS by_client, coalesce(total.mails, 0) AS by_all
      FROM (SELECT DISTINCT mailbox FROM oldest) AS o
      LEFT JOIN LATERAL (SELECT mails
                           FROM mail_counts
                          WHERE client_id = %(client)s
                            AND kind = 'request'
                            AND mailbox = o.mailbox
                            AND hour = date_trunc('hour', statement_timestamp())
                          LIMIT 1) AS own ON true
     CROSS JOIN LATERAL (SELECT sum(m.mails) AS mails
                           FROM (SELECT mails
                                   FROM mail_counts
                                  WHERE kind = 'request'
                                    AND mailbox = o.mailbox
                                    AND hour = date_trunc('hour', statement_timestamp())
                                  LIMIT %(mails_of_all)s) AS m) AS total
), counted AS MATERIALIZED (
    SELECT o.*,
           o.tries > 0
           OR (o.number + s.by_client <= %(mails_per_hour)s
               AND (o.number + s.by_all <= %(mails_of_all)s OR o.number + s.by_client <= %(mails_of_share)s)) AS is_allowed
      FROM oldest o
      JOIN sent s USING (mailbox)
), chosen AS MATERIALIZED (
    SELECT c.row
      FROM counted c
     WHERE c.is_allowed
     ORDER BY c.number, c.due_at
     LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT ctid AS row
      FROM deliveries
     WHERE ctid = ANY(ARRAY(SELECT c.row FROM chosen c UNION ALL SELECT c.row FROM counted c WHERE NOT c.is_allowed))
       AND due_at <= statement_timestamp()
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE deliveries c
       SET token = gen_random_uuid(), tries = c.tries + 1,
           due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
     WHERE c.ctid = ANY(ARRAY(SELECT l.row FROM locked l JOIN chosen USING (row)))
 RETURNING c.id, c.token, c.tries, c.email, c.request_id, c.version
), waiting AS (
    UPDATE deliveries d
       SET status = CASE WHEN d.created_at < w.oldest THEN 'failed' ELSE 'pending' END,
           due_at = CASE WHEN d.created_at < w.oldest THEN NULL ELSE w.next_hour END,
           last_error = 'its address has had too many mails in this hour'
      FROM (SELECT statement_timestamp() - %(wait_seconds)s * interval '1 second' AS oldest,
                   date_trunc('hour', statement_timestamp()) + interval '1 hour' AS next_hour) AS w
     WHERE d.ctid = ANY(ARRAY(SELECT l.row FROM locked l JOIN counted c USING (row) WHERE NOT c.is_allowed))
 RETURNING d.id
), counts AS (
    INSERT INTO mail_counts AS m (client_id, kind, mailbox, hour, mails)
    SELECT %(client)s, 'request', lower(email), date_trunc('hour', statement_timestamp()), count(*)
      FROM claimed
     WHERE tries = 1
     GROUP BY lower(email)
     ORDER BY lower(email)
        ON CONFLICT (client_id, kind, mailbox) DO UPDATE
       SET mails = excluded.mails + CASE WHEN m.hour = excluded.hour THEN m.mails ELSE 0 END, hour = excluded.hour
), forgotten AS (
    DELETE FROM mail_counts
     WHERE ctid = ANY(ARRAY(SELECT ctid
                              FROM mail_counts
                             WHERE hour < date_trunc('hour', statement_timestamp()) - interval '1 hour'
                             ORDER BY hour
                             LIMIT %(limit)s
                               FOR UPDATE SKIP LOCKED))
)
SELECT c.id, c.token, c.tries, c.email, t.unit, coalesce(t.decimals, 0),
       CASE WHEN r.details ? 'legs'
            THEN (SELECT jsonb_object_agg(o.id, jsonb_build_array(o.unit, o.decimals))
                    FROM legs
                    JOIN resources o ON o.id = legs.resource_id
                   WHERE legs.request_id = c.request_id)
       END, r.x_request_id, r.traceparent, {request_columns}
  FROM claimed c
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = c.request_id LIMIT 1) AS r
 CROSS JOIN LATERAL (SELECT *
                       FROM decisions
                      WHERE decisions.request_id = c.request_id
                        AND decisions.version = c.version
                      LIMIT 1) AS d
  LEFT JOIN LATERAL (SELECT unit, decimals FROM resources WHERE resources.id = r.resource_id LIMIT 1) AS t ON true
 ORDER BY c.id;

-- record_deliveries --
-- Results count while their token is valid: delivered, failed, or pending until the end of a pause. A mail whose try does
-- not count keeps its tries, at least one, because a mail without any counts for its mailbox. Without a pause it has been
-- due since it was made, so that its place and `/readyz` show for how long. An endpoint that is
-- gone is disabled. An endpoint that fails notes since when, how often and why, until a delivery succeeds. Endpoints are
-- locked in one order, so that couriers do not wait for each other in a circle.
WITH tries AS (
    SELECT *
      FROM unnest(%(ids)b::bigint[], %(tokens)b::uuid[], %(statuses)b::text[], %(http_statuses)b::smallint[],
                  %(errors)b::text[], %(pauses)b::float8[], %(counted)b::boolean[])
           AS t(id, token, status, http_status, error, pause_seconds, counted)
), written AS (
    UPDATE deliveries d
       SET status = t.status, token = NULL, last_status = t.http_status, last_error = t.error,
           tries = CASE WHEN t.counted THEN d.tries ELSE greatest(1, d.tries - 1) END,
           due_at = CASE WHEN t.counted OR t.pause_seconds > 0
                         THEN statement_timestamp() + t.pause_seconds * interval '1 second'
                         ELSE d.created_at END,
           delivered_at = CASE t.status WHEN 'delivered' THEN clock_timestamp() END
      FROM tries t
     WHERE d.id = t.id
       AND d.token = t.token
 RETURNING d.id, d.webhook_id, t.status, t.error
), endpoints AS MATERIALIZED (
    SELECT r.webhook_id, coalesce(bool_or(r.status = 'delivered'), false) AS works,
           count(*) FILTER (WHERE r.status <> 'delivered')::integer AS failures,
           (array_agg(r.error ORDER BY r.id DESC) FILTER (WHERE r.status <> 'delivered'))[1] AS error,
           r.webhook_id = ANY(%(gone)b) AS is_gone
      FROM (SELECT id, webhook_id, status, error FROM written WHERE webhook_id IS NOT NULL
            UNION ALL
            SELECT NULL, unnest(%(gone)b::uuid[]), NULL, NULL) AS r
     GROUP BY r.webhook_id
     ORDER BY r.webhook_id
), locked AS MATERIALIZED (
    SELECT found.id, endpoints.*
      FROM endpoints
     CROSS JOIN LATERAL (SELECT w.id
                           FROM webhooks w
                          WHERE w.id = endpoints.webhook_id
                            AND w.disabled_at IS NULL
                            AND (w.failing_since IS NOT NULL OR NOT endpoints.works OR endpoints.is_gone)
                          LIMIT 1
                            FOR UPDATE) AS found
)
UPDATE webhooks w
   SET failing_since = CASE WHEN NOT l.works THEN coalesce(w.failing_since, clock_timestamp()) END,
       failing_tries = CASE WHEN l.works THEN 0 ELSE w.failing_tries + l.failures END,
       failing_error = CASE WHEN NOT l.works THEN l.error END,
       disabled_at = CASE WHEN l.is_gone THEN clock_timestamp() END,
       disabled_reason = CASE WHEN l.is_gone THEN %(gone_reason)s END
  FROM locked l
 WHERE w.id = l.id
   AND w.disabled_at IS NULL;
