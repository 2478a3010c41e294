-- Clients and their keys. Only digests of keys are ever here.

-- insert_client --
INSERT INTO clients (id) VALUES (%(id)s);

-- find_client --
SELECT FROM clients WHERE id = %(id)s;

-- insert_key --
INSERT INTO api_keys (id, client_id, name, role, digest)
VALUES (%(id)s, %(client)s, %(name)s, %(role)s, %(digest)s);

-- list_keys --
-- Every key that was ever made, newest first.
SELECT id, client_id, name, role, created_at, revoked_at
  FROM api_keys
 ORDER BY id DESC;

-- revoke_key --
-- Revoking twice keeps the first time. Returns whether it was valid until now.
UPDATE api_keys k
   SET revoked_at = coalesce(k.revoked_at, clock_timestamp())
  FROM (SELECT id, revoked_at IS NULL AS valid FROM api_keys WHERE id = %(id)s FOR UPDATE) AS before
 WHERE k.id = before.id
RETURNING before.valid;

-- find_key --
-- Whose key has this digest, unless it was revoked.
SELECT id, client_id, name, role, digest
  FROM api_keys
 WHERE digest = %(digest)s
   AND revoked_at IS NULL;

-- insert_audit --
INSERT INTO audit (actor, action, detail)
VALUES (%(actor)s, %(action)s, %(detail)s);
