-- The causes of a failure.

-- read_trace --
SELECT trace
  FROM decisions
 WHERE request_id = %(id)s
   AND current;

-- read_attempts --
SELECT started_at, ended_at, status, outcome, error
  FROM attempts
 WHERE request_id = %(id)s
 ORDER BY started_at;
