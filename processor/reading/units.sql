-- The units of resources, each found by its key.

-- read_units --
SELECT id, unit, decimals
  FROM resources
 WHERE id = ANY(%(ids)s);

-- read_units_of_requests --
SELECT r.id, t.unit, t.decimals
  FROM requests r
 CROSS JOIN LATERAL (SELECT unit, decimals FROM resources WHERE resources.id = r.resource_id LIMIT 1) AS t
 WHERE r.id = ANY(%(ids)s);
