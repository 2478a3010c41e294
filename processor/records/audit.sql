-- The audit. Each filter has an index that ends with the time.

-- note --
INSERT INTO audit (actor, action, request_id, reason, detail)
VALUES (%(actor)s, %(action)s, %(request_id)s, %(reason)s, %(detail)s);

-- list_audit --
SELECT id, at, actor, action, request_id, reason, detail
  FROM audit
 WHERE {filters}
 ORDER BY at DESC, id DESC
 LIMIT %(limit)s;

-- filter_actor --
actor = %(actor)s

-- filter_action --
action = %(action)s

-- filter_request --
request_id = %(request)s

-- filter_since --
at >= %(since)s

-- filter_until --
at < %(until)s

-- filter_before --
(at, id) < (%(before_at)s, %(before_id)s)

-- distinct_actions --
-- All actions, each found by one step in the index.
WITH RECURSIVE found AS (
    (SELECT action AS name, 1 AS number FROM audit ORDER BY action LIMIT 1)
    UNION ALL
    SELECT following.action, found.number + 1
      FROM found
     CROSS JOIN LATERAL (SELECT action FROM audit WHERE action > found.name ORDER BY action LIMIT 1) AS following
     WHERE found.number < %(most)s
)
SELECT name FROM found ORDER BY name;

-- distinct_actors --
-- All actors, each found by one step in the index.
WITH RECURSIVE found AS (
    (SELECT actor AS name, 1 AS number FROM audit ORDER BY actor LIMIT 1)
    UNION ALL
    SELECT following.actor, found.number + 1
      FROM found
     CROSS JOIN LATERAL (SELECT actor FROM audit WHERE actor > found.name ORDER BY actor LIMIT 1) AS following
     WHERE found.number < %(most)s
)
SELECT name FROM found ORDER BY name;
