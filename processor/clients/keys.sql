-- Clients and their keys. Only digests of keys are ever here.

-- insert_client --
INSERT INTO clients (id) VALUES (%(id)s);

-- find_client --
SELECT FROM clients WHERE id = %(id)s;

-- find_key_of_id --
SELECT FROM api_keys WHERE id = %(id)s;

-- insert_key --
-- Its life begins now, by the clock of the database. Without a lifetime it ends when it is revoked.
INSERT INTO api_keys (id, client_id, name, role, digest, expires_at)
VALUES (%(id)s, %(client)s, %(name)s, %(role)s, %(digest)s, clock_timestamp() + %(lifetime)s::interval)
RETURNING expires_at;

-- revoke_key --
-- A second revocation keeps the time of the first. Returns whether the key was valid until now.
UPDATE api_keys k
   SET revoked_at = coalesce(k.revoked_at, clock_timestamp())
  FROM (SELECT id, revoked_at IS NULL AS valid FROM api_keys WHERE id = %(id)s FOR UPDATE) AS before
 WHERE k.id = before.id
RETURNING before.valid;

-- find_key --
-- Returns no row if the key was revoked or has expired.
SELECT id, client_id, name, role, digest
  FROM api_keys
 WHERE digest = %(digest)s
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- find_keys --
-- Those of several keys that are valid.
SELECT id, client_id, name, role, digest
  FROM api_keys
 WHERE digest = ANY(%(digests)s)
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- note_uses --
-- Writes each key at most once a minute. Sorted, so that processes do not deadlock.
UPDATE api_keys
   SET last_used_at = clock_timestamp()
 WHERE id IN (SELECT id
                FROM api_keys
               WHERE id = ANY(%(ids)s)
                 AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - %(pause)s::interval)
               ORDER BY id
                 FOR NO KEY UPDATE);
