-- Requests that wait for a code.

-- lock_destination --
-- Locks the unused code of a request. Returns the destination of the next code: the account's protected address, else
-- its present address, else the destination of the last code. Then whether there were too many wrong tries. The last
-- code may have expired, if the sweep has not processed it yet.
SELECT c.client_id,
       lower(coalesce(CASE WHEN a.protected_until > clock_timestamp() THEN a.protected_email END, a.email, c.destination)),
       c.request_wrong >= %(request_limit)s
  FROM codes c
  JOIN requests r ON r.id = c.request_id
  LEFT JOIN accounts a ON a.client_id = r.client_id AND a.name = r.account
 WHERE c.request_id = %(request_id)s
   AND c.used_at IS NULL
   FOR UPDATE OF c;

-- expire --
-- The requests of these partitions whose last code was sent and has expired.
INSERT INTO inbox (partition, request_id, verb)
SELECT r.partition, c.request_id, 'expire'
  FROM codes c
  JOIN requests r ON r.id = c.request_id
 WHERE c.request_id IS NOT NULL
   AND c.used_at IS NULL
   AND c.due_at IS NULL
   AND c.expires_at <= statement_timestamp()
   AND r.partition = ANY(%(partitions)s::smallint[])
   AND NOT EXISTS (SELECT FROM inbox i WHERE i.request_id = c.request_id AND i.verb = 'expire')
 ORDER BY c.expires_at
 LIMIT %(limit)s
    ON CONFLICT (request_id, verb, leg) DO NOTHING
RETURNING partition;
