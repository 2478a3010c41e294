-- Webhooks, and the columns of deliveries, as their owners see them. A reader of client %(client)s sees its own; NULL sees all.
-- These statements write secrets and never read them.

-- webhook_columns --
id, client_id, url, events, created_at, CASE WHEN previous_until > now() THEN previous_until END, disabled_at,
disabled_reason, CASE WHEN disabled_at IS NULL THEN failing_since END, failing_tries, failing_error

-- delivery_columns --
d.id, d.webhook_id, d.request_id, d.version, d.type, d.status, d.tries, d.due_at, d.last_status, d.last_error,
d.created_at, d.delivered_at

-- lock_client --
-- One registration of a client at a time. A separate statement, so that the next statement counts committed rows.
SELECT pg_advisory_xact_lock(%(lock_class)s, hashtext(%(client)s));

-- insert_webhook --
-- Returns no row if the client has the maximum.
INSERT INTO webhooks (id, client_id, url, events, secret)
SELECT %(id)s, %(client)s, %(url)s, %(events)s::text[], %(secret)s::bytea
 WHERE (SELECT count(*) FROM webhooks WHERE client_id = %(client)s) < %(most)s
RETURNING {webhook_columns};

-- read_webhook --
SELECT {webhook_columns}
  FROM webhooks
 WHERE id = %(id)s
   AND (%(client)s::text IS NULL OR client_id = %(client)s);

-- read_rotated --
-- The time that the last rotation set, also if it is over. Each rotation sets a later one.
SELECT previous_until
  FROM webhooks
 WHERE id = %(id)s;

-- delete_webhook --
DELETE FROM webhooks
 WHERE id = %(id)s
   AND (%(client)s::text IS NULL OR client_id = %(client)s)
RETURNING {webhook_columns};

-- rotate_secret --
-- The current secret becomes the previous one, which also signs for a while. The secret before that is dropped. A form
-- rotates only what it was made for, so that sending it twice rotates once.
UPDATE webhooks
   SET previous_secret = secret, previous_until = now() + %(overlap_seconds)s * interval '1 second',
       secret = %(secret)s
 WHERE id = %(id)s
   AND (NOT %(once)s OR previous_until IS NOT DISTINCT FROM %(seen)s::timestamptz)
   AND (%(client)s::text IS NULL OR client_id = %(client)s)
RETURNING {webhook_columns};
