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
-- A change is quick if the address before stood only briefly. An hour has a limit of notices about quick changes, because
-- changes back and forth would send mails to many strangers. An owner is notified all the same:
-- 1. The address of an owner stood longer when another person changes it, so that change is not quick.
-- 2. If it was set just before, that change is among the first quick ones of the hour, unless the owner made those.
WITH change AS MATERIALIZED (
    SELECT client_id, name, email, coalesce(email_since, '-infinity') AS stood_since,
           quick_since IS NULL OR quick_since <= clock_timestamp() - interval '1 hour' AS is_new_hour,
           coalesce(email_since > clock_timestamp() - make_interval(secs => %(stood_seconds)s), false) AS is_quick,
           quick_changes
      FROM accounts
     WHERE client_id = %(client)s
       AND name = %(name)s
       AND lower(email) <> lower(coalesce(%(email)s, ''))
), notice AS (
    INSERT INTO address_changes (client_id, account, email, became, stood_since)
    SELECT client_id, name, email, %(became)s, stood_since
      FROM change
     WHERE NOT is_quick
        OR is_new_hour
        OR quick_changes < %(quick_notices)s
)
UPDATE accounts
   SET email = %(email)s, updated_at = clock_timestamp(),
       email_since = CASE WHEN lower(email) IS NOT DISTINCT FROM lower(%(email)s) THEN email_since
                          ELSE clock_timestamp() END,
       (quick_changes, quick_since) =
           (SELECT CASE WHEN coalesce(c.is_quick, false) AND c.is_new_hour THEN 1
                        WHEN coalesce(c.is_quick, false) THEN accounts.quick_changes + 1
                        ELSE accounts.quick_changes END,
                   CASE WHEN coalesce(c.is_quick, false) AND c.is_new_hour THEN clock_timestamp()
                        ELSE accounts.quick_since END
              FROM (SELECT) AS always
              LEFT JOIN change c ON true),
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
