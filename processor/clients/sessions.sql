-- Sign-ins at the console. Only digests of session tokens are ever here.

-- begin --
-- The session ends with its key at the latest. Returns no row if the key is no longer valid.
INSERT INTO console_sessions (digest, key_id, expires_at)
SELECT %(digest)s, id, least(clock_timestamp() + %(lifetime)s::interval, expires_at)
  FROM api_keys
 WHERE id = %(key)s
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > clock_timestamp())
RETURNING expires_at;

-- sweep --
-- Deletes some expired sessions.
DELETE FROM console_sessions
 WHERE digest IN (SELECT digest FROM console_sessions WHERE expires_at <= clock_timestamp() LIMIT %(most)s);

-- find --
-- Returns no row unless both the session and its key are valid.
SELECT k.id, k.client_id, k.name, k.role, s.expires_at
  FROM console_sessions s
  JOIN api_keys k ON k.id = s.key_id
 WHERE s.digest = %(digest)s
   AND s.expires_at > clock_timestamp()
   AND k.revoked_at IS NULL
   AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp());

-- end --
DELETE FROM console_sessions WHERE digest = %(digest)s;
