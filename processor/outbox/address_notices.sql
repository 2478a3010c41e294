-- Addresses that are still to be told that an account no longer has them, as the courier sees them.

-- claim --
-- The oldest that are due.
WITH due AS (
    SELECT id
      FROM address_changes
     WHERE due_at <= statement_timestamp()
     ORDER BY due_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
)
UPDATE address_changes c
   SET token = gen_random_uuid(), tries = c.tries + 1,
       due_at = statement_timestamp() + make_interval(secs => %(lease_seconds)s)
  FROM due
 WHERE c.id = due.id
RETURNING c.id, c.token, c.tries, c.account, c.email, c.became, c.changed_at;

-- next --
-- In how many seconds the next one is due; null: there is none (greatest() by itself would make that a 0).
SELECT CASE WHEN min(due_at) IS NOT NULL THEN greatest(0, extract(epoch FROM min(due_at) - clock_timestamp())) END::float8
  FROM address_changes;

-- record --
-- How tries ended, if they are still ours to say: over, or to be tried again after a pause.
WITH tries AS (
    SELECT *
      FROM unnest(%(ids)b::uuid[], %(tokens)b::uuid[], %(pauses)b::float8[]) AS t(id, token, pause_seconds)
), over AS (
    DELETE FROM address_changes c
     USING tries t
     WHERE c.id = t.id
       AND c.token = t.token
       AND t.pause_seconds IS NULL
)
UPDATE address_changes c
   SET token = NULL, due_at = statement_timestamp() + make_interval(secs => t.pause_seconds)
  FROM tries t
 WHERE c.id = t.id
   AND c.token = t.token
   AND t.pause_seconds IS NOT NULL;
