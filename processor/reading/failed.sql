-- Failed requests: the list, and the sums. The index has only failed requests, and each request is found by its key.

-- list_failed --
-- The last to fail is first.
SELECT {request_columns}
  FROM decisions d
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = d.request_id LIMIT 1) AS r
 WHERE {filters}
 ORDER BY d.at DESC, d.request_id DESC
 LIMIT %(limit)s;

-- plan_for_many --
-- Settings for the next statement of this transaction. It looks up many rows, each once and by its key, even if they are
-- most of the table. Compiling the statement would take longer than running it, and its groups fit into memory.
SELECT set_config('jit', 'off', true), set_config('enable_memoize', 'off', true),
       set_config('enable_seqscan', 'off', true), set_config('work_mem', '64MB', true);

-- sum_up --
-- The number and the sum by code, by unit, and for the resources with the most requests. A request without an amount is
-- counted, and adds nothing.
WITH groups AS MATERIALIZED (
    SELECT d.code, r.resource_id, count(*) AS requests, count(r.amount) AS counted, sum(r.amount) AS amount
      FROM decisions d
     CROSS JOIN LATERAL (SELECT id, resource_id, client_id, account, amount, details
                           FROM requests WHERE requests.id = d.request_id LIMIT 1) AS r
     WHERE {filters}
     GROUP BY d.code, r.resource_id
), by_resource AS MATERIALIZED (
    SELECT g.resource_id, t.unit, coalesce(t.decimals, 0) AS decimals, sum(g.requests) AS requests, sum(g.counted) AS counted, sum(g.amount) AS amount
      FROM groups g
      LEFT JOIN LATERAL (SELECT unit, decimals FROM resources WHERE resources.id = g.resource_id LIMIT 1) AS t ON true
     GROUP BY g.resource_id, t.unit, t.decimals
)
SELECT 'code', code, NULL, 0, sum(requests), sum(counted), sum(amount)
  FROM groups
 GROUP BY code
UNION ALL
SELECT 'unit', NULL, unit, decimals, sum(requests), sum(counted), sum(amount)
  FROM by_resource
 GROUP BY unit, decimals
UNION ALL
(SELECT 'resource', resource_id, unit, decimals, requests, counted, amount
   FROM by_resource
  ORDER BY requests DESC, resource_id
  LIMIT %(limit)s)
UNION ALL
SELECT 'resources', NULL, NULL, 0, count(*), 0, 0
  FROM by_resource;

-- filter_failed --
d.current AND d.status = 'failed'

-- filter_code --
d.code = %(code)s

-- filter_since --
d.at >= %(since)s

-- filter_until --
d.at < %(until)s

-- filter_seen --
d.at <= %(seen)s

-- filter_before --
(d.at, d.request_id) < (%(before_at)s, %(before_id)s)

-- filter_resource --
(r.resource_id = %(resource)s
 OR (r.details ? 'legs'
     AND EXISTS (SELECT FROM legs WHERE legs.request_id = r.id AND legs.resource_id = %(resource)s)))

-- filter_account --
r.account = %(account)s

-- filter_client --
r.client_id = %(client)s

-- filter_ids --
d.request_id = ANY(%(ids)s::uuid[])
