-- Reservations that are held.

-- list_held --
-- The first to expire first. A failed one keeps its hold, and is in the list of failed requests.
SELECT v.expires_at, {request_columns}
  FROM reservations v
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = v.request_id LIMIT 1) AS r
 CROSS JOIN LATERAL (SELECT * FROM decisions WHERE decisions.request_id = v.request_id AND current LIMIT 1) AS d
 WHERE v.command IS NULL
   AND d.stage = 'held'
   AND (%(after)s::timestamptz IS NULL OR (v.expires_at, v.request_id) > (%(after)s, %(after_id)s))
 ORDER BY v.expires_at, v.request_id
 LIMIT %(limit)s;
