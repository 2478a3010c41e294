-- Webhooks as those who own them see them: where a client is told, and what became of each delivery. %(client)s is
-- whose eyes it is; NULL sees all. Secrets are written here and never read.

-- webhook_columns --
id, client_id, url, events, created_at, CASE WHEN previous_until > now() THEN previous_until END, disabled_at,
disabled_reason

-- delivery_columns --
d.id, d.webhook_id, d.request_id, d.version, d.type, d.status, d.tries, d.due_at, d.last_status, d.last_error,
d.created_at, d.delivered_at

-- lock_client --
-- One registration of a client at a time; a statement of its own, so that what counts after it sees them all.
SELECT pg_advisory_xact_lock(%(lock_class)s, hashtext(%(client)s));

-- insert_webhook --
-- A new one, unless the client has as many as it may have.
INSERT INTO webhooks (id, client_id, url, events, secret)
SELECT %(id)s, %(client)s, %(url)s, %(events)s::text[], %(secret)s::bytea
 WHERE (SELECT count(*) FROM webhooks WHERE client_id = %(client)s) < %(most)s
RETURNING {webhook_columns};

-- read_webhook --
SELECT {webhook_columns}
  FROM webhooks
 WHERE id = %(id)s
   AND (%(client)s::text IS NULL OR client_id = %(client)s);

-- list_webhooks --
SELECT {webhook_columns}
  FROM webhooks
 WHERE (%(client)s::text IS NULL OR client_id = %(client)s)
   AND (%(before)s::uuid IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s;

-- delete_webhook --
DELETE FROM webhooks
 WHERE id = %(id)s
   AND (%(client)s::text IS NULL OR client_id = %(client)s)
RETURNING {webhook_columns};

-- rotate_secret --
-- What signed until now signs as well for a while. (Of two rotations in a row, the secret before the last is gone.)
UPDATE webhooks
   SET previous_secret = secret, previous_until = now() + %(overlap_seconds)s * interval '1 second',
       secret = %(secret)s
 WHERE id = %(id)s
   AND (%(client)s::text IS NULL OR client_id = %(client)s)
RETURNING {webhook_columns};

-- list_deliveries --
-- One list of each status, as the index has them, made into one.
SELECT {delivery_columns}
  FROM unnest(ARRAY['pending', 'delivered', 'failed']) AS s(status)
 CROSS JOIN LATERAL (SELECT *
                       FROM deliveries
                      WHERE webhook_id = %(id)s
                        AND status = s.status
                        AND (%(before)s::bigint IS NULL OR id < %(before)s)
                      ORDER BY id DESC
                      LIMIT %(limit)s) AS d
 ORDER BY d.id DESC
 LIMIT %(limit)s;

-- read_delivery --
-- One delivery of a webhook that is still there, and whether that is disabled.
SELECT w.disabled_at IS NOT NULL, {delivery_columns}
  FROM deliveries d
  JOIN webhooks w ON w.id = d.webhook_id
 WHERE d.id = %(id)s
   AND (%(client)s::text IS NULL OR w.client_id = %(client)s);

-- resend_delivery --
-- Due now, with all its tries ahead of it. One that is being sent is left alone.
UPDATE deliveries d
   SET status = 'pending', tries = 0, due_at = now()
 WHERE d.id = %(id)s
   AND (d.token IS NULL OR d.due_at <= now())
RETURNING {delivery_columns};
