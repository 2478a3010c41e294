-- The requests of a time by their status, from samples of the primary key. Its cost does not grow with their number.

-- sample --
-- The first requests of each part of the time, by status, and the last of their ids. A part with fewer requests than the
-- limit is read as a whole.
SELECT part.place, coalesce(d.status, 'processing'), count(*), max(w.id::text)
  FROM unnest(%(lowers)s::uuid[], %(uppers)s::uuid[]) WITH ORDINALITY AS part(lower, upper, place)
 CROSS JOIN LATERAL (SELECT id
                       FROM requests
                      WHERE id >= part.lower AND id < part.upper
                      ORDER BY id
                      LIMIT %(limit)s) AS w
  LEFT JOIN LATERAL (SELECT status
                       FROM decisions
                      WHERE decisions.request_id = w.id
                        AND decisions.current
                      LIMIT 1) AS d ON true
 GROUP BY 1, 2;
