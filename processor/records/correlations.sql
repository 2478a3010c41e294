-- The HTTP calls that made requests.

-- read --
SELECT id, x_request_id, traceparent
  FROM requests
 WHERE id = ANY(%(ids)b::uuid[]);
