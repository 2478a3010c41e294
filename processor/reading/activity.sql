-- The requests of the last hour, day and week by their status. It reads a limited number of the newest requests.

-- count_newest --
-- The newest requests by status: those of the week, of the day and of the hour. With the first of their ids.
SELECT coalesce(d.status, 'processing'), count(*), count(*) FILTER (WHERE w.id >= %(day)s),
       count(*) FILTER (WHERE w.id >= %(hour)s), min(w.id::text)
  FROM (SELECT id
          FROM requests
         WHERE id >= %(week)s
           AND client_id <> %(without)s
         ORDER BY id DESC
         LIMIT %(most)s) AS w
  LEFT JOIN LATERAL (SELECT status
                       FROM decisions
                      WHERE decisions.request_id = w.id
                        AND decisions.current
                      LIMIT 1) AS d ON true
 GROUP BY 1;
