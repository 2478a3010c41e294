-- Calls of gateways. One claim is a transaction of set_timeouts, lock_gateway and claim_effects. Each other statement is
-- a transaction of its own, so a courier that is suspended holds no lock.

-- due_gateways --
-- Gateways that have effects, and the seconds until the first effect is due and the breaker allows a call. Each gateway
-- costs one step in the index, independent of its backlog.
WITH RECURSIVE waiting AS (
    (SELECT gateway, due_at
       FROM effects
      WHERE due_at IS NOT NULL
      ORDER BY gateway, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.gateway, following.due_at
      FROM waiting
     CROSS JOIN LATERAL (SELECT e.gateway, e.due_at
                           FROM effects e
                          WHERE e.due_at IS NOT NULL
                            AND e.gateway > waiting.gateway
                          ORDER BY e.gateway, e.due_at
                          LIMIT 1) AS following
)
SELECT w.gateway, greatest(0, extract(epoch FROM greatest(w.due_at, g.open_until) - clock_timestamp()))::float8
  FROM waiting w
  LEFT JOIN gateways g ON g.name = w.gateway;

-- insert_gateway --
-- Make the row of a gateway, which holds its breaker and which claims lock.
INSERT INTO gateways (name) VALUES (%(gateway)s) ON CONFLICT DO NOTHING;

-- set_timeouts --
-- The longest time for which a suspended courier blocks the claims of others, in milliseconds.
SELECT set_config('idle_in_transaction_session_timeout', %(idle_ms)s::text, true);

-- lock_gateway --
-- One courier at a time claims from a gateway, so that the limit of calls holds for all couriers together. The claim is
-- the next statement, and so it sees all that was committed before this lock. No row: another courier claims, or the
-- breaker is open.
SELECT open_until IS NOT NULL
  FROM gateways
 WHERE name = %(gateway)s
   AND (open_until IS NULL OR open_until <= statement_timestamp())
   FOR UPDATE SKIP LOCKED;

-- claim_effects --
-- The oldest effects that are due, within the limit of calls at once, get a token, a lease and an attempt. An effect
-- that has no tries left was claimed by a courier that recorded no answer: its outcome is unknown.
WITH room AS (
    SELECT least(%(room)s, %(calls_at_once)s - count(*)) AS free
      FROM effects
     WHERE gateway = %(gateway)s
       AND leased_until > statement_timestamp()
), due AS (
    SELECT request_id, leg, tries
      FROM effects
     WHERE gateway = %(gateway)s
       AND due_at <= statement_timestamp()
     ORDER BY due_at
     LIMIT (SELECT greatest(0, free) FROM room)
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE effects e
       SET token = gen_random_uuid(), tries = e.tries + 1,
           leased_until = statement_timestamp() + %(lease_seconds)s * interval '1 second',
           due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
      FROM due
     WHERE e.request_id = due.request_id
       AND e.leg = due.leg
       AND due.tries < %(tries)s
 RETURNING e.request_id, e.leg, e.partition, e.token, e.tries
), attempted AS (
    INSERT INTO attempts (request_id, leg, token)
    SELECT request_id, leg, token
      FROM claimed
), given_up AS (
    UPDATE effects e
       SET outcome = 'unknown', reason = %(cut_off)s, due_at = NULL, token = NULL, leased_until = NULL
      FROM due
     WHERE e.request_id = due.request_id
       AND e.leg = due.leg
       AND due.tries >= %(tries)s
 RETURNING e.request_id, e.leg, e.partition
), settled AS (
    INSERT INTO inbox (partition, request_id, verb, leg)
    SELECT partition, request_id, 'settle', leg
      FROM given_up
        ON CONFLICT DO NOTHING
)
SELECT c.partition, c.leg, c.token, c.tries,
       c.request_id, r.kind, r.account, r.resource_id, r.amount, r.details ->> 'destination', coalesce(r.metadata, '{}')
  FROM claimed c
  JOIN requests r ON r.id = c.request_id
 UNION ALL
SELECT partition, leg, NULL, NULL, request_id, NULL, NULL, NULL, NULL, NULL, NULL
  FROM given_up;

-- record_answers --
-- Write the answers of gateways.
-- 1. A definite answer counts with any token, and the first definite answer stays.
-- 2. Another answer counts only with the token that the effect has now.
-- 3. An answer that ends the calls of an effect puts `settle` into the inbox of its request's partition.
-- Rows are locked in the order of their ids. Also returns whether an answer is yes after a no.
WITH answers AS (
    SELECT *
      FROM unnest(%(request_id)b::uuid[], %(leg)b::smallint[], %(token)b::uuid[], %(outcome)b::text[],
                  %(status)b::smallint[], %(reference)b::text[], %(reason)b::text[], %(error)b::text[],
                  %(pause_seconds)b::float8[])
           AS a(request_id, leg, token, outcome, status, reference, reason, error, pause_seconds)
), ended AS (
    UPDATE attempts t
       SET ended_at = clock_timestamp(), status = a.status, outcome = a.outcome, error = a.error
      FROM answers a
     WHERE t.request_id = a.request_id
       AND t.leg = a.leg
       AND t.token = a.token
), locked AS (
    SELECT e.request_id, e.leg, e.outcome AS before
      FROM effects e
      JOIN answers a ON a.request_id = e.request_id AND a.leg = e.leg
     ORDER BY e.request_id, e.leg
       FOR UPDATE OF e
), recorded AS (
    UPDATE effects e
       SET outcome = CASE WHEN a.pause_seconds IS NULL THEN a.outcome END,
           reference = a.reference, reason = a.reason, answered_at = clock_timestamp(),
           due_at = statement_timestamp() + a.pause_seconds * interval '1 second',
           token = NULL, leased_until = NULL
      FROM answers a
      JOIN locked l ON l.request_id = a.request_id AND l.leg = a.leg
     WHERE e.request_id = a.request_id
       AND e.leg = a.leg
       AND CASE WHEN a.outcome IN ('done', 'declined')
                THEN e.outcome IS NULL OR e.outcome IN ('unknown', 'misconfigured')
                ELSE e.outcome IS NULL AND e.token = a.token AND e.voided_at IS NULL END
 RETURNING e.request_id, e.leg, e.partition, e.outcome
), settled AS (
    INSERT INTO inbox (partition, request_id, verb, leg)
    SELECT partition, request_id, 'settle', leg
      FROM recorded
     WHERE outcome IS NOT NULL
     ORDER BY request_id, leg
        ON CONFLICT DO NOTHING
)
SELECT a.request_id, r.partition, r.outcome, a.outcome = 'done' AND l.before = 'declined'
  FROM answers a
  LEFT JOIN locked l ON l.request_id = a.request_id AND l.leg = a.leg
  LEFT JOIN recorded r ON r.request_id = a.request_id AND r.leg = a.leg;

-- count_unknowns --
-- The circuit breaker. It counts unknown outcomes in a row, and another answer sets the count to zero and closes it.
-- Returns whether it was open before and is open now. No row: the count was zero, and stays zero.
WITH before AS (
    SELECT name, failures, open_until
      FROM gateways
     WHERE name = %(gateway)s
       AND (failures > 0 OR %(unknowns)s > 0)
       FOR UPDATE
), counted AS (
    SELECT name, CASE WHEN %(answered)s THEN 0 ELSE failures END + %(unknowns)s AS failures,
           open_until IS NOT NULL AS was_open
      FROM before
)
UPDATE gateways g
   SET failures = c.failures,
       open_until = CASE WHEN c.failures >= %(open_after)s
                         THEN statement_timestamp() + %(open_seconds)s * interval '1 second' END
  FROM counted c
 WHERE g.name = c.name
RETURNING c.was_open, g.open_until IS NOT NULL;
