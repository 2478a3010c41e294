-- What went wrong with a failed request.

-- read_trace --
-- What went wrong, for admins alone.
SELECT trace
  FROM decisions
 WHERE request_id = %(id)s
   AND current;

-- read_attempts --
-- Each call of a gateway for a request, oldest first.
SELECT started_at, ended_at, status, outcome, error
  FROM attempts
 WHERE request_id = %(id)s
 ORDER BY started_at;
