-- Accounts: how to reach the person behind one.

-- set_email --
INSERT INTO accounts (client_id, name, email)
VALUES (%(client)s, %(name)s, %(email)s)
    ON CONFLICT (client_id, name) DO UPDATE
   SET email = excluded.email, updated_at = clock_timestamp()
RETURNING name, email, updated_at;

-- read_account --
SELECT name, email, updated_at
  FROM accounts
 WHERE client_id = %(client)s
   AND name = %(name)s;
