-- One-time codes that the courier sends: those that have the turn of their destination, in the order of due_at.

-- waiting_clients --
-- Clients behind a given one whose codes wait for the cooldown of their destinations. Each client costs one step in the
-- index.
WITH RECURSIVE waiting AS (
    (SELECT client_id, 1 AS number
       FROM codes
      WHERE NOT has_turn
        AND due_at IS NOT NULL
        AND client_id > %(after)s
      ORDER BY client_id
      LIMIT 1)
    UNION ALL
    SELECT following.client_id, waiting.number + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT c.client_id
                           FROM codes c
                          WHERE NOT c.has_turn
                            AND c.due_at IS NOT NULL
                            AND c.client_id > waiting.client_id
                          ORDER BY c.client_id
                          LIMIT 1) AS following
     WHERE waiting.number < %(limit)s
)
SELECT client_id FROM waiting ORDER BY number;

-- take_turns --
-- Codes of requests wait for the cooldown of their destination. Then one code of each destination gets the turn.
-- 1. Each client has some destinations, behind its last one, and the first code of each. The others cost nothing.
-- 2. Where several clients wait for one destination, chance decides.
-- 3. The lock on the destination's row decides, as it does for codes that clients ask for.
-- Returns for each client its last destination, the number of destinations, and the number that got the turn. Then the
-- seconds until another destination may be free.
WITH RECURSIVE waiting AS (
    SELECT v.client_id, first.destination, first.due_at, first.row, 1 AS number
      FROM unnest(%(clients)s::text[], %(afters)s::text[]) AS v(client_id, after)
     CROSS JOIN LATERAL (SELECT c.destination, c.due_at, c.ctid AS row
                           FROM codes c
                          WHERE NOT c.has_turn
                            AND c.due_at IS NOT NULL
                            AND c.client_id = v.client_id
                            AND c.destination > v.after
                          ORDER BY c.client_id, c.destination, c.due_at
                          LIMIT 1) AS first
    UNION ALL
    SELECT waiting.client_id, following.destination, following.due_at, following.row, waiting.number + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT c.destination, c.due_at, c.ctid AS row
                           FROM codes c
                          WHERE NOT c.has_turn
                            AND c.due_at IS NOT NULL
                            AND c.client_id = waiting.client_id
                            AND c.destination > waiting.destination
                          ORDER BY c.client_id, c.destination, c.due_at
                          LIMIT 1) AS following
     WHERE waiting.number < %(destinations)s
), placed AS MATERIALIZED (
    SELECT w.*, greatest(w.due_at, t.free_at) AS free_at,
           row_number() OVER (PARTITION BY w.destination ORDER BY random()) AS place
      FROM waiting w
      LEFT JOIN LATERAL (SELECT taken_at + make_interval(secs => %(cooldown_seconds)s) AS free_at
                           FROM code_turns
                          WHERE code_turns.destination = w.destination
                          LIMIT 1) AS t ON true
), locked AS MATERIALIZED (
    SELECT c.ctid AS row, c.destination
      FROM codes c
     WHERE c.ctid = ANY(ARRAY(SELECT p.row FROM placed p WHERE p.place = 1 AND p.free_at <= statement_timestamp()))
       AND NOT c.has_turn
       AND c.due_at <= statement_timestamp()
       FOR UPDATE SKIP LOCKED
), granted AS (
    INSERT INTO code_turns AS t (destination, taken_at)
    SELECT destination, clock_timestamp()
      FROM locked
     ORDER BY destination
        ON CONFLICT (destination) DO UPDATE SET taken_at = clock_timestamp()
     WHERE t.taken_at <= clock_timestamp() - make_interval(secs => %(cooldown_seconds)s)
    RETURNING destination
), turned AS (
    UPDATE codes c
       SET has_turn = true, due_at = statement_timestamp()
     WHERE c.ctid = ANY(ARRAY(SELECT l.row FROM locked l JOIN granted USING (destination)))
 RETURNING c.client_id, c.destination
)
SELECT p.client_id, (array_agg(p.destination ORDER BY p.number DESC))[1], count(*)::integer, count(u.destination)::integer,
       min(CASE WHEN u.destination IS NULL
                THEN greatest(0, extract(epoch FROM p.free_at - clock_timestamp())) END)::float8
  FROM placed p
  LEFT JOIN turned u USING (client_id, destination)
 GROUP BY p.client_id;

-- due --
-- Clients behind a given one that have codes with the turn, and the seconds until the first is due. Each client costs one
-- step in the index.
WITH RECURSIVE waiting AS (
    (SELECT client_id, due_at, 1 AS number
       FROM codes
      WHERE has_turn
        AND due_at IS NOT NULL
        AND client_id > %(after)s
      ORDER BY client_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.client_id, following.due_at, waiting.number + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT c.client_id, c.due_at
                           FROM codes c
                          WHERE c.has_turn
                            AND c.due_at IS NOT NULL
                            AND c.client_id > waiting.client_id
                          ORDER BY c.client_id, c.due_at
                          LIMIT 1) AS following
     WHERE waiting.number < %(limit)s
)
SELECT client_id, greatest(0, extract(epoch FROM due_at - clock_timestamp()))::float8
  FROM waiting
 ORDER BY number;

-- claim --
-- The oldest codes of a client that are due get a token and a lease. Returns each with the request that it confirms. The
-- lifetime of such a code begins here, and begins again when it was sent.
WITH due AS MATERIALIZED (
    SELECT ctid AS row
      FROM codes
     WHERE has_turn
       AND client_id BETWEEN %(client)s AND %(client)s  -- by this index alone
       AND due_at <= statement_timestamp()
     ORDER BY client_id, due_at
     LIMIT (SELECT %(limit)s::bigint)
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE codes c
       SET token = gen_random_uuid(), tries = c.tries + 1,
           due_at = statement_timestamp() + make_interval(secs => %(lease_seconds)s),
           expires_at = CASE WHEN c.request_id IS NULL THEN c.expires_at
                             ELSE statement_timestamp() + make_interval(secs => %(ttl_seconds)s) END
     WHERE c.ctid = ANY(ARRAY(SELECT due.row FROM due))
 RETURNING c.id, c.token, c.tries, c.destination, c.created_at, c.expires_at, c.request_id
)
SELECT c.id, c.token, c.tries, c.destination, c.created_at, c.expires_at, c.expires_at <= statement_timestamp(),
       t.unit, coalesce(t.decimals, 0), r.x_request_id, r.traceparent,
       r.id, r.kind, r.amount, r.resource_id, r.account
  FROM claimed c
  LEFT JOIN LATERAL (SELECT * FROM requests WHERE requests.id = c.request_id LIMIT 1) AS r ON true
  LEFT JOIN LATERAL (SELECT unit, decimals FROM resources WHERE resources.id = r.resource_id LIMIT 1) AS t ON true
 ORDER BY c.created_at;

-- record --
-- Results count while their token is valid and the code was not replaced. A code without a pause is finished. The
-- lifetime of a code that confirms a request begins when its sending ends.
UPDATE codes c
   SET token = NULL, due_at = clock_timestamp() + t.pause_seconds * interval '1 second',
       tries = CASE WHEN t.counted THEN c.tries ELSE c.tries - 1 END,
       expires_at = CASE WHEN c.request_id IS NULL THEN c.expires_at
                         ELSE clock_timestamp() + make_interval(secs => %(ttl_seconds)s) END
  FROM unnest(%(ids)b::uuid[], %(tokens)b::uuid[], %(pauses)b::float8[], %(counted)b::boolean[])
       AS t(id, token, pause_seconds, counted)
 WHERE c.id = t.id
   AND c.token = t.token
   AND c.used_at IS NULL;
