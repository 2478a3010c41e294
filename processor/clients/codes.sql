-- Requests for one-time codes, and tries of them. The digits are in no statement: they follow from `id`.

-- make_code --
-- Takes the turn of the destination if it is free, and replaces the last code. Returns no row otherwise.
-- The lock on the turn's row serialises concurrent requests, so one of them gets the turn.
WITH turn AS (
    INSERT INTO code_turns AS t (destination, taken_at)
    SELECT %(destination)s, clock_timestamp()
     WHERE NOT EXISTS (SELECT FROM code_guesses g
                        WHERE g.client_id = %(client)s AND g.destination = %(destination)s
                          AND g.day = (now() AT TIME ZONE 'UTC')::date AND g.wrong >= %(wrong_limit)s)
        ON CONFLICT (destination) DO UPDATE SET taken_at = clock_timestamp()
     WHERE t.taken_at <= clock_timestamp() - make_interval(secs => %(cooldown_seconds)s)
    RETURNING taken_at
)
INSERT INTO codes (id, client_id, destination, purpose, created_at, expires_at, has_turn, due_at)
SELECT gen_random_uuid(), %(client)s, %(destination)s, %(purpose)s, taken_at,
       taken_at + make_interval(secs => %(ttl_seconds)s), true, taken_at
  FROM turn
    ON CONFLICT (client_id, destination, purpose) WHERE request_id IS NULL
    DO UPDATE SET id = excluded.id, created_at = excluded.created_at, expires_at = excluded.expires_at, used_at = NULL,
                  wrong = 0, due_at = excluded.due_at, tries = 0, token = NULL
RETURNING expires_at, created_at + make_interval(secs => %(cooldown_seconds)s);

-- replace_code_of_request --
-- The same for the code of a request, whose row the caller has locked. The destination may have changed.
WITH turn AS (
    INSERT INTO code_turns AS t (destination, taken_at)
    SELECT %(destination)s, clock_timestamp()
     WHERE NOT EXISTS (SELECT FROM code_guesses g
                        WHERE g.client_id = %(client)s AND g.destination = %(destination)s
                          AND g.day = (now() AT TIME ZONE 'UTC')::date AND g.wrong >= %(wrong_limit)s)
        ON CONFLICT (destination) DO UPDATE SET taken_at = clock_timestamp()
     WHERE t.taken_at <= clock_timestamp() - make_interval(secs => %(cooldown_seconds)s)
    RETURNING taken_at
)
UPDATE codes
   SET id = gen_random_uuid(), destination = %(destination)s, created_at = taken_at, wrong = 0, has_turn = true,
       expires_at = taken_at + make_interval(secs => %(ttl_seconds)s), due_at = taken_at, tries = 0, token = NULL
  FROM turn
 WHERE request_id = %(request_id)s
RETURNING expires_at, created_at + make_interval(secs => %(cooldown_seconds)s);

-- read_refusal --
-- The seconds until the turn of the destination is free. Then whether the client's destination is locked for the day,
-- and the seconds until the end of the day.
SELECT coalesce((SELECT extract(epoch FROM t.taken_at - clock_timestamp())::float8 + %(cooldown_seconds)s
                   FROM code_turns t WHERE t.destination = %(destination)s), 0),
       EXISTS (SELECT FROM code_guesses g
                WHERE g.client_id = %(client)s AND g.destination = %(destination)s
                  AND g.day = (now() AT TIME ZONE 'UTC')::date AND g.wrong >= %(wrong_limit)s),
       extract(epoch FROM date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day'
                          - (now() AT TIME ZONE 'UTC'))::float8;

-- read_day --
-- The seconds until the end of the day.
SELECT extract(epoch FROM date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day'
                          - (now() AT TIME ZONE 'UTC'))::float8;

-- lock_code --
-- Locks the last code of a client, destination and purpose. Concurrent tries wait here for each other.
SELECT id, client_id, destination, wrong, used_at IS NOT NULL,
       expires_at IS NOT NULL AND expires_at > clock_timestamp(), request_wrong
  FROM codes
 WHERE client_id = %(client)s
   AND destination = %(destination)s
   AND purpose = %(purpose)s
   AND request_id IS NULL
   FOR UPDATE;

-- lock_code_of_request --
SELECT id, client_id, destination, wrong, used_at IS NOT NULL,
       expires_at IS NOT NULL AND expires_at > clock_timestamp(), request_wrong
  FROM codes
 WHERE request_id = %(request_id)s
   FOR UPDATE;

-- count_guess --
-- Counts a try of this day, before it is compared. Returns no row if there were too many.
INSERT INTO code_guesses AS g (client_id, destination, day, wrong)
VALUES (%(client)s, %(destination)s, (now() AT TIME ZONE 'UTC')::date, 1)
    ON CONFLICT (client_id, destination, day) DO UPDATE SET wrong = g.wrong + 1
 WHERE g.wrong < %(wrong_limit)s
RETURNING day;

-- count_wrong --
-- Counts a try of this code, and of its request.
UPDATE codes
   SET wrong = wrong + 1, request_wrong = request_wrong + CASE WHEN request_id IS NULL THEN 0 ELSE 1 END
 WHERE id = %(id)s;

-- burn --
-- Marks the code as used, and takes the right try off the counts of wrong ones.
WITH forgiven AS (
    UPDATE code_guesses
       SET wrong = wrong - 1
     WHERE client_id = %(client)s
       AND destination = %(destination)s
       AND day = %(day)s
)
UPDATE codes
   SET used_at = clock_timestamp(), wrong = wrong - 1, due_at = NULL,
       request_wrong = request_wrong - CASE WHEN request_id IS NULL THEN 0 ELSE 1 END
 WHERE id = %(id)s;

-- tidy --
-- Deletes codes of clients, turns and guesses that no query reads again, some at a time.
WITH old_codes AS (
    DELETE FROM codes
     WHERE id IN (SELECT id FROM codes
                   WHERE request_id IS NULL AND expires_at < now() - make_interval(secs => %(kept_seconds)s)
                   LIMIT %(limit)s)
), old_turns AS (
    DELETE FROM code_turns
     WHERE destination IN (SELECT destination FROM code_turns
                            WHERE taken_at < now() - make_interval(secs => %(kept_seconds)s)
                            LIMIT %(limit)s)
)
DELETE FROM code_guesses
 WHERE (client_id, destination, day) IN (SELECT client_id, destination, day FROM code_guesses
                                          WHERE day < (now() AT TIME ZONE 'UTC')::date - 1
                                          LIMIT %(limit)s);
