-- Accounts and their e-mail addresses.

-- lock_account --
-- Concurrent changes of an account wait here for each other, also if there is no account yet.
INSERT INTO accounts AS a (client_id, name)
VALUES (%(client)s, %(name)s)
    ON CONFLICT (client_id, name) DO UPDATE
   SET updated_at = a.updated_at;

-- set_email --
-- Under the lock of the row, so that each previous address gets its notice.
WITH notice AS (
    INSERT INTO address_changes (client_id, account, email, became)
    SELECT client_id, name, email, %(became)s
      FROM accounts
     WHERE client_id = %(client)s
       AND name = %(name)s
       AND lower(email) <> lower(coalesce(%(email)s, ''))
)
UPDATE accounts
   SET email = %(email)s, updated_at = clock_timestamp()
 WHERE client_id = %(client)s
   AND name = %(name)s
RETURNING name, email, updated_at;

-- read_account --
SELECT name, email, updated_at
  FROM accounts
 WHERE client_id = %(client)s
   AND name = %(name)s;
