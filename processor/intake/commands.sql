-- Commands on requests.

-- record_command --
-- Inserts nothing if the inbox has this command already.
WITH command AS (
    INSERT INTO inbox (partition, request_id, verb, payload)
    SELECT partition, id, %(verb)s, %(payload)s
      FROM requests
     WHERE id = %(request_id)s
        ON CONFLICT (request_id, verb, leg) DO NOTHING
    RETURNING request_id
)
SELECT partition, EXISTS (SELECT FROM command)
  FROM requests
 WHERE id = %(request_id)s;
