-- One-time codes that the courier sends: those that have the turn of their destination, in the order of due_at.

-- take_turns --
-- Codes of requests wait for the cooldown of their destination. Then one code of each destination gets the turn, and
-- the others wait for the next. The lock on the destination's row decides, as it does for codes that clients ask for.
WITH waiting AS (
    SELECT id, destination, row_number() OVER (PARTITION BY destination ORDER BY created_at, id) AS place
      FROM (SELECT id, destination, created_at
              FROM codes
             WHERE NOT has_turn
               AND due_at <= statement_timestamp()
             ORDER BY due_at, created_at
             LIMIT %(limit)s
               FOR UPDATE SKIP LOCKED) AS due
), granted AS (
    INSERT INTO code_turns AS t (destination, taken_at)
    SELECT destination, clock_timestamp()
      FROM waiting
     WHERE place = 1
     ORDER BY destination
        ON CONFLICT (destination) DO UPDATE SET taken_at = clock_timestamp()
     WHERE t.taken_at <= clock_timestamp() - make_interval(secs => %(cooldown_seconds)s)
    RETURNING destination
)
UPDATE codes c
   SET has_turn = w.place = 1 AND g.destination IS NOT NULL,
       due_at = CASE WHEN g.destination IS NULL  -- another code had the turn: wait for the rest of its cooldown
                     THEN greatest(t.taken_at + make_interval(secs => %(cooldown_seconds)s), statement_timestamp())
                     WHEN w.place = 1 THEN statement_timestamp()
                     ELSE statement_timestamp() + make_interval(secs => %(cooldown_seconds)s) END
  FROM waiting w
  LEFT JOIN granted g ON g.destination = w.destination
  LEFT JOIN code_turns t ON t.destination = w.destination
 WHERE c.id = w.id;

-- claim --
-- The oldest codes that are due get a token and a lease. Returns each with the request that it confirms. The lifetime
-- of such a code begins here, and begins again when it was sent.
WITH due AS (
    SELECT id
      FROM codes
     WHERE has_turn
       AND due_at <= statement_timestamp()
     ORDER BY due_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE codes c
       SET token = gen_random_uuid(), tries = c.tries + 1,
           due_at = statement_timestamp() + make_interval(secs => %(lease_seconds)s),
           expires_at = CASE WHEN c.request_id IS NULL THEN c.expires_at
                             ELSE statement_timestamp() + make_interval(secs => %(ttl_seconds)s) END
      FROM due
     WHERE c.id = due.id
 RETURNING c.id, c.token, c.tries, c.destination, c.created_at, c.expires_at, c.request_id
)
SELECT c.id, c.token, c.tries, c.destination, c.created_at, c.expires_at, c.expires_at <= statement_timestamp(),
       r.id, r.kind, r.amount, r.resource_id, r.account
  FROM claimed c
  LEFT JOIN requests r ON r.id = c.request_id
 ORDER BY c.created_at;

-- next --
-- Seconds until the first code is due. Null: there is none.
SELECT extract(epoch FROM due_at - clock_timestamp())::float8
  FROM (SELECT least((SELECT min(due_at) FROM codes WHERE has_turn AND due_at IS NOT NULL),
                     (SELECT min(due_at) FROM codes WHERE NOT has_turn AND due_at IS NOT NULL)) AS due_at) AS soonest;

-- record --
-- Results count while their token is valid and the code was not replaced. A code without a pause is finished. The
-- lifetime of a code that confirms a request begins when its sending ends.
UPDATE codes c
   SET token = NULL, due_at = clock_timestamp() + t.pause_seconds * interval '1 second',
       expires_at = CASE WHEN c.request_id IS NULL THEN c.expires_at
                         ELSE clock_timestamp() + make_interval(secs => %(ttl_seconds)s) END
  FROM unnest(%(ids)b::uuid[], %(tokens)b::uuid[], %(pauses)b::float8[]) AS t(id, token, pause_seconds)
 WHERE c.id = t.id
   AND c.token = t.token
   AND c.used_at IS NULL;
