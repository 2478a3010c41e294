-- Lists of requests. A page walks one index from the newest request on, for a limited number of rows, and looks each
-- request up by its key. Its time depends neither on the filter nor on the number of requests.

-- list_requests --
-- The requests of a walk that match. With the last id of the walk, if neither the page was full then nor the index read
-- to its end. A page without any request is one row, with this id alone.
WITH page AS MATERIALIZED (
    SELECT {request_columns}
      FROM ({walk}
             LIMIT %(walked)s) AS w
     CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = w.id LIMIT 1) AS r
      LEFT JOIN LATERAL (SELECT *
                           FROM decisions
                          WHERE decisions.request_id = w.id
                            AND decisions.current
                          LIMIT 1) AS d ON true
     WHERE {filters}
     ORDER BY w.id DESC
     LIMIT %(limit)s
)
SELECT CASE WHEN (SELECT count(*) FROM page) < %(limit)s THEN
            ({walk}
             OFFSET %(walked)s - 1
              LIMIT 1)
       END, page.*
  FROM (VALUES (true)) AS always(is_there)
  LEFT JOIN page ON true
 ORDER BY page.id DESC;

-- count_requests --
-- The requests of a walk that match, by status. With the number of rows of the walk, in the row without a status.
WITH w AS MATERIALIZED (
    SELECT id
      FROM ({walk}
             LIMIT %(walked)s) AS walk
)
SELECT NULL AS status, count(*)
  FROM w
UNION ALL
SELECT coalesce(d.status, 'processing'), count(*)
  FROM w
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = w.id LIMIT 1) AS r
  LEFT JOIN LATERAL (SELECT *
                       FROM decisions
                      WHERE decisions.request_id = w.id
                        AND decisions.current
                      LIMIT 1) AS d ON true
 WHERE {filters}
 GROUP BY 1;

-- walk_all --
SELECT id FROM requests WHERE {range} ORDER BY id DESC

-- walk_client --
SELECT id FROM requests WHERE client_id = %(client)s AND {range} ORDER BY id DESC

-- walk_account --
SELECT id FROM requests WHERE client_id = %(client)s AND account = %(account)s AND {range} ORDER BY id DESC

-- walk_resource --
-- The requests whose first resource it is, and those with a later leg of it.
SELECT id
  FROM ((SELECT id
           FROM requests
          WHERE resource_id = %(resource)s AND {range}
          ORDER BY id DESC
          LIMIT %(walked)s)
        UNION ALL
        (SELECT request_id
           FROM legs
          WHERE resource_id = %(resource)s AND leg > 0 AND {range_of_decisions}
          ORDER BY request_id DESC
          LIMIT %(walked)s)) AS either
 ORDER BY id DESC

-- walk_account_of_all_clients --
-- The account of this name of each client.
SELECT own.id
  FROM clients c
 CROSS JOIN LATERAL (SELECT id
                       FROM requests
                      WHERE client_id = c.id AND account = %(account)s AND {range}
                      ORDER BY id DESC
                      LIMIT %(walked)s) AS own
 ORDER BY own.id DESC

-- walk_status --
-- For the statuses that have an index.
SELECT request_id AS id
  FROM decisions
 WHERE current AND status NOT IN ('completed', 'rejected') AND status = %(status)s AND {range_of_decisions}
 ORDER BY request_id DESC

-- walk_processing --
-- An undecided request has an inbox row, and one that was decided and goes on has a decision.
SELECT id
  FROM ((SELECT request_id AS id
           FROM decisions
          WHERE current AND status NOT IN ('completed', 'rejected') AND status = 'processing' AND {range_of_decisions}
          ORDER BY request_id DESC
          LIMIT %(walked)s)
        UNION ALL
        (SELECT request_id
           FROM inbox
          WHERE verb = 'decide' AND leg = 0 AND {range_of_decisions}
          ORDER BY request_id DESC
          LIMIT %(walked)s)) AS either
 ORDER BY id DESC

-- walk_key --
-- At most one.
SELECT id
  FROM (SELECT id FROM requests WHERE client_id = %(client)s AND idempotency_key = %(key)s OFFSET 0) AS of_key
 WHERE {range}
 ORDER BY id DESC

-- walk_key_of_all_clients --
-- At most one of each client.
SELECT own.id
  FROM clients c
 CROSS JOIN LATERAL (SELECT id
                       FROM (SELECT id FROM requests WHERE client_id = c.id AND idempotency_key = %(key)s OFFSET 0) AS of_key
                      WHERE {range}) AS own
 ORDER BY own.id DESC

-- lower --
id >= %(lower)s

-- upper --
id < %(upper)s

-- filter_key --
r.idempotency_key = %(key)s

-- filter_amounts --
r.amount = ANY(%(amounts)s::bigint[])
AND r.amount = (%(amounts)s::bigint[])[1 + coalesce((SELECT decimals FROM resources WHERE id = r.resource_id), 0)]

-- filter_metadata --
EXISTS (SELECT
          FROM jsonb_path_query(r.metadata, '$.**') AS v(value)
         WHERE jsonb_typeof(value) IN ('string', 'number', 'boolean') AND value #>> '{}' = %(metadata)s)

-- filter_client --
r.client_id = %(client)s

-- filter_without --
r.client_id <> %(without)s

-- filter_kind --
r.kind = %(kind)s

-- filter_resource --
(r.resource_id = %(resource)s
 OR (r.details ? 'legs'
     AND EXISTS (SELECT FROM legs WHERE legs.request_id = r.id AND legs.resource_id = %(resource)s)))

-- filter_account --
r.account = %(account)s

-- filter_code --
d.code = %(code)s

-- filter_status --
coalesce(d.status, 'processing') = %(status)s
