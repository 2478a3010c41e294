-- Notices to addresses that an account no longer has.

-- due --
-- Clients behind a given one that have notices, and the seconds until the first is due. A client that has sent all of this
-- hour waits for the next.
WITH RECURSIVE waiting AS (
    (SELECT client_id, due_at, 1 AS number
       FROM address_changes
      WHERE client_id > %(after)s
      ORDER BY client_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.client_id, following.due_at, waiting.number + 1
      FROM waiting
     CROSS JOIN LATERAL (SELECT c.client_id, c.due_at
                           FROM address_changes c
                          WHERE c.client_id > waiting.client_id
                          ORDER BY c.client_id, c.due_at
                          LIMIT 1) AS following
     WHERE waiting.number < %(limit)s
)
SELECT w.client_id, greatest(0, extract(epoch FROM greatest(w.due_at, full_hour.next) - clock_timestamp()))::float8
  FROM waiting w
  LEFT JOIN LATERAL (SELECT m.hour + interval '1 hour' AS next
                       FROM mail_counts m
                      WHERE m.client_id = w.client_id
                        AND m.kind = 'notice'
                        AND m.mailbox = ''
                        AND m.hour = date_trunc('hour', clock_timestamp())
                        AND m.mails >= {notices_per_hour}) AS full_hour ON true
 ORDER BY w.number;

-- claim --
-- Notices of a client that are due get a token and a lease. Those to addresses that stood longest go first, so quick
-- changes of other accounts do not delay them. A first try counts for the mailbox, for the client, and for the hour.
-- Beyond the limit of its mailbox a notice waits for the next hour. When the notices of all clients to a mailbox reach their
-- limit, each client has a small share left. Each count is at least one, so reading as many as the limit suffices. The counts
-- of a mailbox are read for its first notice, without a join that would compare each with each.
WITH longest AS MATERIALIZED (
    SELECT c.row, c.mailbox, c.stood_since, c.tries,
           row_number() OVER (PARTITION BY c.mailbox ORDER BY c.stood_since, c.id) AS place,
           sum((c.tries = 0)::integer) OVER (PARTITION BY c.mailbox ORDER BY c.stood_since, c.id) AS number,
           sum((c.tries = 0)::integer) OVER (ORDER BY c.stood_since, c.id) AS number_of_client
      FROM (SELECT ctid AS row, id, lower(email) AS mailbox, stood_since, tries
              FROM address_changes
             WHERE client_id BETWEEN %(client)s AND %(client)s  -- by the index in this order alone
               AND (due_at <= statement_timestamp()) IS TRUE
             ORDER BY client_id, stood_since
             LIMIT (SELECT %(window)s::bigint)) AS c
), sent AS MATERIALIZED (
    SELECT l.*, coalesce(max(own.mails) OVER of_mailbox, 0) AS by_client, coalesce(max(total.mails) OVER of_mailbox, 0) AS by_all
      FROM longest l
      LEFT JOIN LATERAL (SELECT mails
                           FROM mail_counts
                          WHERE l.place = 1
                            AND client_id = %(client)s
                            AND kind = 'notice'
                            AND mailbox = l.mailbox
                            AND hour = date_trunc('hour', statement_timestamp())
                          LIMIT 1) AS own ON true
     CROSS JOIN LATERAL (SELECT sum(m.mails) AS mails
                           FROM (SELECT mails
                                   FROM mail_counts
                                  WHERE l.place = 1
                                    AND kind = 'notice'
                                    AND mailbox = l.mailbox
                                    AND hour = date_trunc('hour', statement_timestamp())
                                  LIMIT {notices_of_all}) AS m) AS total
    WINDOW of_mailbox AS (PARTITION BY l.mailbox)
), counted AS MATERIALIZED (
    SELECT s.*,
           s.tries > 0
           OR (s.number + s.by_client <= {notices_per_mailbox}
               AND (s.number + s.by_all <= {notices_of_all} OR s.number + s.by_client <= {notices_of_share})) AS is_allowed
      FROM sent s
), chosen AS MATERIALIZED (
    SELECT c.row
      FROM counted c
     WHERE c.is_allowed
       AND (c.tries > 0
            OR c.number_of_client + coalesce((SELECT m.mails
                                                FROM mail_counts m
                                               WHERE m.client_id = %(client)s AND m.kind = 'notice' AND m.mailbox = ''
                                                 AND m.hour = date_trunc('hour', statement_timestamp())), 0)
               <= {notices_per_hour})
     ORDER BY c.stood_since
     LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT ctid AS row
      FROM address_changes
     WHERE ctid = ANY(ARRAY(SELECT c.row FROM chosen c UNION ALL SELECT c.row FROM counted c WHERE NOT c.is_allowed))
       AND due_at <= statement_timestamp()
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE address_changes c
       SET token = gen_random_uuid(), tries = c.tries + 1,
           due_at = statement_timestamp() + make_interval(secs => %(lease_seconds)s)
     WHERE c.ctid = ANY(ARRAY(SELECT l.row FROM locked l JOIN chosen USING (row)))
 RETURNING c.id, c.token, c.tries, c.account, c.email, c.became, c.changed_at
), waiting AS (
    UPDATE address_changes c
       SET due_at = date_trunc('hour', statement_timestamp()) + interval '1 hour'
     WHERE c.ctid = ANY(ARRAY(SELECT l.row FROM locked l JOIN counted n USING (row) WHERE NOT n.is_allowed))
), counts AS (
    INSERT INTO mail_counts AS m (client_id, kind, mailbox, hour, mails)
    SELECT %(client)s, 'notice', mailbox, date_trunc('hour', statement_timestamp()), count(*)
      FROM (SELECT lower(email) AS mailbox FROM claimed WHERE tries = 1
            UNION ALL SELECT '' FROM claimed WHERE tries = 1) AS sent
     GROUP BY mailbox
     ORDER BY mailbox
        ON CONFLICT (client_id, kind, mailbox) DO UPDATE
       SET mails = excluded.mails + CASE WHEN m.hour = excluded.hour THEN m.mails ELSE 0 END, hour = excluded.hour
)
SELECT id, token, tries, account, email, became, changed_at
  FROM claimed;

-- record --
-- Results count while their token is valid. A notice without a pause is finished, and its row is deleted. A try that does
-- not count is handled as in `record_deliveries`.
WITH tries AS (
    SELECT *
      FROM unnest(%(ids)b::uuid[], %(tokens)b::uuid[], %(pauses)b::float8[], %(counted)b::boolean[])
           AS t(id, token, pause_seconds, counted)
), finished AS (
    DELETE FROM address_changes c
     USING tries t
     WHERE c.id = t.id
       AND c.token = t.token
       AND t.pause_seconds IS NULL
)
UPDATE address_changes c
   SET token = NULL, tries = CASE WHEN t.counted THEN c.tries ELSE greatest(1, c.tries - 1) END,
       due_at = CASE WHEN t.counted OR t.pause_seconds > 0 THEN statement_timestamp() + make_interval(secs => t.pause_seconds)
                     ELSE c.changed_at END
  FROM tries t
 WHERE c.id = t.id
   AND c.token = t.token
   AND t.pause_seconds IS NOT NULL;
