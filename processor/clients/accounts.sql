-- Accounts and their e-mail addresses.

-- lock_account --
-- Concurrent changes of an account wait here for each other, also if there is no account yet.
INSERT INTO accounts AS a (client_id, name)
VALUES (%(client)s, %(name)s)
    ON CONFLICT (client_id, name) DO UPDATE
   SET updated_at = a.updated_at;

-- set_email --
-- Under the lock of the row, so that each previous address gets its notice. A change protects the previous address for a
-- time. Further changes in this time prolong it, and protect the first of these addresses.
WITH notice AS (
    INSERT INTO address_changes (client_id, account, email, became)
    SELECT client_id, name, email, %(became)s
      FROM accounts
     WHERE client_id = %(client)s
       AND name = %(name)s
       AND lower(email) <> lower(coalesce(%(email)s, ''))
)
UPDATE accounts
   SET email = %(email)s, updated_at = clock_timestamp(),
       (protected_email, protected_until) =
           (SELECT protected, CASE WHEN protected IS NULL THEN NULL
                                   WHEN lower(email) IS NOT DISTINCT FROM lower(%(email)s) THEN protected_until
                                   ELSE clock_timestamp() + make_interval(secs => %(protected_seconds)s) END
              FROM (SELECT CASE WHEN protected_until > clock_timestamp() THEN protected_email
                                WHEN lower(email) <> lower(coalesce(%(email)s, '')) THEN email END AS protected) AS p)
 WHERE client_id = %(client)s
   AND name = %(name)s
RETURNING name, email, updated_at, CASE WHEN protected_until > clock_timestamp() THEN protected_until END;

-- read_account --
SELECT name, email, updated_at, CASE WHEN protected_until > clock_timestamp() THEN protected_until END
  FROM accounts
 WHERE client_id = %(client)s
   AND name = %(name)s;
