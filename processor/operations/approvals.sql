-- Withdrawals that wait for a code or for another person, as the API sees them, and those that wait too long.

-- read_waiting --
-- Where a request stands, and whose it is.
SELECT r.client_id, r.partition, d.stage
  FROM requests r
  LEFT JOIN decisions d ON d.request_id = r.id AND d.current
 WHERE r.id = %(request_id)s;

-- lock_destination --
-- Where the next code of a request goes: the account's address as it is now, else where the last one went. Locked, and
-- only while it is not used and the request waits for it. The lifetime of the last one may be over: the sweep has not
-- come yet.
SELECT c.client_id, lower(coalesce(a.email, c.destination))
  FROM codes c
  JOIN requests r ON r.id = c.request_id
  LEFT JOIN accounts a ON a.client_id = r.client_id AND a.name = r.account
 WHERE c.request_id = %(request_id)s
   AND c.used_at IS NULL
   FOR UPDATE OF c;

-- expire --
-- Withdrawals of these partitions whose last code was sent and has run out.
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
