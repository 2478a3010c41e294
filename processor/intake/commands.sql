-- Commands on requests.

-- record_command --
-- A command on a request (cancel, confirm, replay, ...), for the batch of its home partition.
WITH command AS (
    INSERT INTO inbox (partition, request_id, verb, payload)
    SELECT partition, id, %(verb)s, %(payload)s
      FROM requests
     WHERE id = %(request_id)s
        ON CONFLICT (request_id, verb, leg) DO NOTHING
)
SELECT partition
  FROM requests
 WHERE id = %(request_id)s;
