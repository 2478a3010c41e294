-- Requests that have left.

-- find --
SELECT name
  FROM archived_in(%(id)s)
 WHERE %(client)s::text IS NULL
    OR client_id = %(client)s;
