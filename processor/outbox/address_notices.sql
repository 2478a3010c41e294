-- Notices to addresses that an account no longer has.

-- claim --
-- The oldest notices that are due get a token and a lease.
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
-- Seconds until the first notice is due. Null: there is none.
SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8
  FROM address_changes;

-- record --
-- Results count while their token is valid. A notice without a pause is finished, and its row is deleted.
WITH tries AS (
    SELECT *
      FROM unnest(%(ids)b::uuid[], %(tokens)b::uuid[], %(pauses)b::float8[]) AS t(id, token, pause_seconds)
), finished AS (
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
