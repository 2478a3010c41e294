-- The audit for the console. Each filter has an index that goes by time.

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
-- What was ever done: one step in the index for each.
WITH RECURSIVE known AS (
    (SELECT action AS name, 1 AS number FROM audit ORDER BY action LIMIT 1)
    UNION ALL
    SELECT following.action, known.number + 1
      FROM known
     CROSS JOIN LATERAL (SELECT action FROM audit WHERE action > known.name ORDER BY action LIMIT 1) AS following
     WHERE known.number < %(most)s
)
SELECT name FROM known ORDER BY name;

-- distinct_actors --
-- Who ever did something: one step in the index for each.
WITH RECURSIVE known AS (
    (SELECT actor AS name, 1 AS number FROM audit ORDER BY actor LIMIT 1)
    UNION ALL
    SELECT following.actor, known.number + 1
      FROM known
     CROSS JOIN LATERAL (SELECT actor FROM audit WHERE actor > known.name ORDER BY actor LIMIT 1) AS following
     WHERE known.number < %(most)s
)
SELECT name FROM known ORDER BY name;
