-- Calls of gateways. One claim is a transaction of set_timeouts, lock_gateway and claim_effects. Each other statement is
-- a transaction of its own, so a courier that is suspended holds no lock.

-- due_clients --
-- Clients with effects, by gateway, behind a given pair. Then the seconds until the first effect of each is due, and a
-- probe is allowed if the client's breaker is open. Each pair costs one step in the index, independent of its backlog.
WITH RECURSIVE waiting AS (
    (SELECT gateway, client_id, due_at, 1 AS number
       FROM effects
      WHERE due_at IS NOT NULL
        AND (gateway, client_id) > (%(gateway)s, %(client)s)
      ORDER BY gateway, client_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.gateway, following.client_id, following.due_at, waiting.number + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT e.gateway, e.client_id, e.due_at
                           FROM effects e
                          WHERE e.due_at IS NOT NULL
                            AND (e.gateway, e.client_id) > (waiting.gateway, waiting.client_id)
                          ORDER BY e.gateway, e.client_id, e.due_at
                          LIMIT 1) AS following
     WHERE waiting.number < %(limit)s
)
SELECT w.gateway, w.client_id,
       greatest(0, extract(epoch FROM greatest(w.due_at, CASE WHEN b.is_open THEN g.open_until END)
                                      - clock_timestamp()))::float8
  FROM waiting w
  LEFT JOIN gateway_breakers b ON b.gateway = w.gateway AND b.client_id = w.client_id
  LEFT JOIN gateways g ON g.name = w.gateway
 ORDER BY w.number;

-- insert_gateway --
-- Make the row of a gateway, which claims lock.
INSERT INTO gateways (name) VALUES (%(gateway)s) ON CONFLICT DO NOTHING;

-- set_timeouts --
-- The longest time for which a suspended courier blocks the claims of others, in milliseconds.
SELECT set_config('idle_in_transaction_session_timeout', %(idle_ms)s::text, true);

-- lock_gateway --
-- One courier at a time claims from a gateway, so that the limit of calls holds for all couriers together. The claim is
-- the next statement, and so it sees all that was committed before this lock. No row: another courier claims. Returns
-- whether a probe is allowed.
SELECT coalesce(open_until <= statement_timestamp(), true)
  FROM gateways
 WHERE name = %(gateway)s
   FOR UPDATE SKIP LOCKED;

-- claim_effects --
-- The oldest effects of each client that are due get a token, a lease and an attempt. The clients take turns.
-- 1. `free` is what remains of the limit of calls at once.
-- 2. Each client whose breaker is closed may have an equal share of it, its oldest effects first.
-- 3. Clients whose breaker is open have one call together. It is for the first behind the client of the last probe.
-- 4. The calls of a client are at most `reserve` times the calls that it leaves free. So another client always finds a
--    free call, unless the limit is small.
-- The amount of a reservation is the part that is to be captured.
-- An effect that has no tries left was claimed by a courier that recorded no answer: its outcome is unknown.
-- The rows are updated by their place: for a planner without good statistics, a join would read all effects.
WITH leased AS MATERIALIZED (
    SELECT client_id, count(*) AS calls
      FROM effects
     WHERE gateway = %(gateway)s
       AND leased_until > statement_timestamp()
     GROUP BY client_id
), turns AS MATERIALIZED (
    SELECT c.client_id, coalesce(l.calls, 0) AS calls, coalesce(b.is_open, false) AS is_open,
           row_number() OVER (PARTITION BY coalesce(b.is_open, false) ORDER BY c.place) AS place,
           count(*) FILTER (WHERE b.is_open IS NOT TRUE) OVER () AS competing
      FROM unnest(%(clients)s::text[]) WITH ORDINALITY AS c(client_id, place)
      LEFT JOIN leased l USING (client_id)
      LEFT JOIN gateway_breakers b ON b.gateway = %(gateway)s AND b.client_id = c.client_id
), room AS MATERIALIZED (
    SELECT coalesce(sum(calls), 0) AS under_way,
           greatest(0, least(%(room)s, %(calls_at_once)s - coalesce(sum(calls), 0))) AS free
      FROM leased
), probe AS MATERIALIZED (
    SELECT client_id
      FROM turns
     WHERE is_open
       AND %(may_probe)s
       AND NOT EXISTS (SELECT FROM leased JOIN gateway_breakers b USING (client_id)
                        WHERE b.gateway = %(gateway)s AND b.is_open)
     ORDER BY client_id <= (SELECT coalesce(probed, '') FROM gateways WHERE name = %(gateway)s), client_id
     LIMIT 1
), due AS MATERIALIZED (
    SELECT oldest.row, oldest.tries, oldest.number, turns.calls,
           row_number() OVER (ORDER BY oldest.number, turns.is_open DESC, turns.place) AS taken
      FROM turns
     CROSS JOIN room
     CROSS JOIN LATERAL (SELECT locked.row, locked.tries, row_number() OVER () AS number
                           FROM (SELECT e.ctid AS row, e.tries
                                   FROM effects e
                                  WHERE e.gateway = %(gateway)s
                                    AND e.client_id = turns.client_id
                                    AND e.due_at <= statement_timestamp()
                                  ORDER BY e.due_at
                                  LIMIT CASE WHEN room.free = 0 THEN 0
                                             WHEN turns.is_open
                                             THEN (SELECT count(*) FROM probe WHERE probe.client_id = turns.client_id)
                                             WHEN turns.place > room.free THEN 0
                                             ELSE ceil(room.free / turns.competing)::bigint END
                                    FOR UPDATE SKIP LOCKED) AS locked) AS oldest
), chosen AS MATERIALIZED (
    SELECT due.row, due.tries
      FROM due
     CROSS JOIN room
     WHERE due.taken <= room.free
       AND due.calls + due.number <= %(reserve)s * (%(calls_at_once)s - room.under_way - due.taken + 1)
), claimed AS (
    UPDATE effects e
       SET token = gen_random_uuid(), tries = e.tries + 1,
           leased_until = statement_timestamp() + %(lease_seconds)s * interval '1 second',
           due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
     WHERE e.ctid = ANY(ARRAY(SELECT chosen.row FROM chosen WHERE chosen.tries < %(tries)s))
 RETURNING e.request_id, e.leg, e.client_id, e.partition, e.token, e.tries
), attempted AS (
    INSERT INTO attempts (request_id, leg, token)
    SELECT request_id, leg, token
      FROM claimed
), given_up AS (
    UPDATE effects e
       SET outcome = 'unknown', reason = %(cut_off)s, due_at = NULL, token = NULL, leased_until = NULL
     WHERE e.ctid = ANY(ARRAY(SELECT chosen.row FROM chosen WHERE chosen.tries >= %(tries)s))
 RETURNING e.request_id, e.leg, e.client_id, e.partition
), settled AS (
    INSERT INTO inbox (partition, request_id, verb, leg)
    SELECT partition, request_id, 'settle', leg
      FROM given_up
        ON CONFLICT DO NOTHING
), probed AS (
    UPDATE gateways
       SET probed = probe.client_id
      FROM probe
     WHERE name = %(gateway)s
)
SELECT c.client_id, c.partition, c.leg, c.token, c.tries,
       r.id, r.kind, r.account, r.resource_id,
       coalesce((SELECT amount FROM reservations WHERE reservations.request_id = r.id), r.amount),
       r.details ->> 'destination', coalesce(r.metadata, '{}'), r.x_request_id, r.traceparent
  FROM claimed c
 CROSS JOIN LATERAL (SELECT * FROM requests WHERE requests.id = c.request_id LIMIT 1) AS r
 UNION ALL
SELECT client_id, partition, leg, NULL, NULL, request_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
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
-- The circuit breakers, one for each gateway and client. A breaker counts unknown outcomes in a row, and opens at a
-- limit. Another answer sets the count to zero and closes it. An answer to a probe closes all breakers of the gateway.
-- Returns the gateways and clients whose breaker was open before or is open now. Rows are locked in the same order.
WITH results AS MATERIALIZED (
    SELECT r.gateway, r.client_id, r.unknowns, r.is_answered, coalesce(b.is_open, false) AS was_open,
           r.unknowns + CASE WHEN r.is_answered THEN 0 ELSE coalesce(b.failures, 0) END AS failures
      FROM unnest(%(gateways)s::text[], %(clients)s::text[], %(unknowns)s::integer[], %(answered)s::boolean[])
           AS r(gateway, client_id, unknowns, is_answered)
      LEFT JOIN gateway_breakers b ON b.gateway = r.gateway AND b.client_id = r.client_id
     WHERE r.unknowns > 0
        OR b.failures > 0
), answered AS MATERIALIZED (
    SELECT DISTINCT gateway
      FROM results
     WHERE is_answered
       AND was_open
), locked AS MATERIALIZED (
    SELECT b.gateway, b.client_id
      FROM gateway_breakers b
      JOIN answered USING (gateway)
     WHERE b.is_open
       AND NOT EXISTS (SELECT FROM results r WHERE r.gateway = b.gateway AND r.client_id = b.client_id)
     ORDER BY b.gateway, b.client_id
       FOR UPDATE OF b
), closed AS (
    UPDATE gateway_breakers b
       SET failures = 0, is_open = false
      FROM locked l
     WHERE b.gateway = l.gateway
       AND b.client_id = l.client_id
), counted AS (
    INSERT INTO gateway_breakers AS b (gateway, client_id, failures, is_open)
    SELECT gateway, client_id, failures, failures >= %(open_after)s
      FROM results
     ORDER BY gateway, client_id
        ON CONFLICT (gateway, client_id) DO UPDATE SET failures = excluded.failures, is_open = excluded.is_open
 RETURNING b.gateway, b.client_id, b.is_open
), paused AS (
    UPDATE gateways g
       SET open_until = CASE WHEN c.is_open THEN statement_timestamp() + %(open_seconds)s * interval '1 second' END
      FROM (SELECT gateway, bool_or(is_open) AS is_open FROM counted GROUP BY gateway) AS c
     WHERE g.name = c.gateway
       AND (c.is_open OR g.name IN (SELECT gateway FROM answered))
)
SELECT r.gateway, r.client_id, r.was_open, c.is_open
  FROM results r
  JOIN counted c USING (gateway, client_id)
 WHERE r.was_open
    OR c.is_open;
