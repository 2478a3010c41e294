-- Keys without their digests.

-- list_keys --
-- Newest first.
SELECT id, client_id, name, role, created_at, expires_at, revoked_at, last_used_at
  FROM api_keys
 WHERE {filters}
 ORDER BY id DESC
 LIMIT %(limit)s;

-- filter_client --
client_id = %(client)s

-- filter_role --
role = %(role)s

-- filter_before --
id < %(before)s

-- filter_valid --
revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())

-- filter_expired --
revoked_at IS NULL AND expires_at <= clock_timestamp()

-- filter_revoked --
revoked_at IS NOT NULL

-- read_key --
SELECT id, client_id, name, role, created_at, expires_at, revoked_at, last_used_at
  FROM api_keys
 WHERE id = %(id)s;

-- count_others --
-- The other valid keys of its client, the other valid keys of admins, and its sessions, each up to a limit.
SELECT (SELECT count(*) FROM (SELECT FROM api_keys
                               WHERE client_id = %(client)s AND id <> %(id)s AND revoked_at IS NULL
                                 AND (expires_at IS NULL OR expires_at > clock_timestamp())
                               LIMIT %(most)s) AS of_client),
       (SELECT count(*) FROM (SELECT FROM api_keys
                               WHERE role = 'admin' AND id <> %(id)s AND revoked_at IS NULL
                                 AND (expires_at IS NULL OR expires_at > clock_timestamp())
                               LIMIT %(most)s) AS of_admins),
       (SELECT count(*) FROM (SELECT FROM console_sessions
                               WHERE key_id = %(id)s AND expires_at > clock_timestamp()
                               LIMIT %(most)s) AS sessions);

-- find_clients --
SELECT id FROM clients ORDER BY created_at DESC, id LIMIT %(limit)s;

-- find_client --
SELECT FROM clients WHERE id = %(id)s;
