-- The snapshot of one batch and its changes, read and written as sets, in the transaction of `processor/batch/run.py`.

-- read_resources --
SELECT partition, id, kind, available, created_at, unit, client_id, held, version, overdraft, per_account_limit, starts_at,
       ends_at, gateway, confirm_above, approve_above, metadata, closed_at, digest, last_entry_at,
       per_account_daily_limit, decimals
  FROM resources
 WHERE id = ANY(%(ids)b::text[]);

-- read_usages --
SELECT u.resource_id, u.client_id, u.account, u.used
  FROM unnest(%(resource_ids)b::text[], %(client_ids)b::text[], %(accounts)b::text[]) AS v(resource_id, client_id, account)
  JOIN usages u USING (resource_id, client_id, account);

-- read_daily_usages --
SELECT u.resource_id, u.client_id, u.account, u.day, u.used
  FROM unnest(%(resource_ids)b::text[], %(client_ids)b::text[], %(accounts)b::text[]) AS v(resource_id, client_id, account)
  JOIN daily_usages u USING (resource_id, client_id, account);

-- read_most_used --
-- The greatest usage of any account of these resources. Without a limit, it comes from the entries and the sums of those
-- that have left. A sum that no limit can reach counts as one more than the largest limit.
SELECT r.id,
       least(%(largest)s::bigint + 1,
             coalesce(
             CASE WHEN r.per_account_limit IS NOT NULL
                  THEN (SELECT max(u.used) FROM usages u WHERE u.resource_id = r.id)
                  ELSE (SELECT max(used)
                          FROM (SELECT sum(used) AS used
                          FROM (SELECT coalesce(original.client_id, q.client_id) AS client_id, e.account,
                                       sum(CASE WHEN e.kind = 'hold' OR (e.kind = 'debit' AND q.refund_of IS NULL)
                                                THEN e.amount
                                                WHEN e.kind = 'release' OR (e.kind = 'credit' AND q.refund_of IS NOT NULL)
                                                THEN -e.amount
                                                ELSE 0 END) AS used
                                  FROM entries e
                                  JOIN requests q ON q.id = e.request_id
                                  LEFT JOIN requests original ON original.id = q.refund_of
                                 WHERE e.resource_id = r.id
                                   AND e.account IS NOT NULL
                                 GROUP BY coalesce(original.client_id, q.client_id), e.account
                                 UNION ALL
                                SELECT a.client_id, a.account, a.used
                                  FROM archived_usages a
                                 WHERE a.resource_id = r.id) AS each
                                 GROUP BY client_id, account) AS taken)
                  END, 0))::bigint
  FROM resources r
 WHERE r.id = ANY(%(ids)b::text[]);

-- read_states --
-- The current states of requests that were decided before.
SELECT request_id, status, code, sequence, decided_at, version, stage, reason, reference, refunded, detail, trace, actor,
       leg, captured
  FROM decisions
 WHERE request_id = ANY(%(ids)b::uuid[])
   AND current;

-- read_originals --
-- The requests that refunds give back.
SELECT id, client_id, kind, resource_id, account, amount, apply_before, details, refund_of
  FROM requests
 WHERE id = ANY(%(ids)b::uuid[]);

-- read_effects --
-- The effects of these requests, locked against a courier that would call a gateway now.
SELECT request_id, gateway, outcome, reference, reason,
       leased_until IS NOT NULL AND leased_until > clock_timestamp(), due_at IS NOT NULL, voided_at IS NOT NULL
  FROM effects
 WHERE request_id = ANY(%(ids)b::uuid[])
 ORDER BY request_id, leg  -- as couriers lock them: no deadlock
   FOR UPDATE;

-- read_open_holds --
-- The requests among these that have an open hold, neither captured nor released.
SELECT request_id
  FROM entries
 WHERE request_id = ANY(%(ids)b::uuid[])
 GROUP BY request_id
HAVING count(*) FILTER (WHERE kind = 'hold') > count(*) FILTER (WHERE kind IN ('capture', 'release'));

-- read_lapsed --
-- The requests among these whose code has expired, locked against a code that would be sent now.
SELECT request_id
  FROM codes
 WHERE request_id = ANY(%(ids)b::uuid[])
   AND used_at IS NULL
   AND due_at IS NULL
   AND expires_at <= clock_timestamp()
 ORDER BY request_id
   FOR UPDATE;

-- read_reservations --
-- The open holds of these reservations, locked against a command that the API would accept now.
SELECT request_id, expires_at, command, amount
  FROM reservations
 WHERE request_id = ANY(%(ids)b::uuid[])
 ORDER BY request_id
   FOR UPDATE;

-- read_listeners --
-- The webhooks of these clients, and the addresses of these accounts.
SELECT client_id, NULL, id, events, NULL
  FROM webhooks
 WHERE client_id = ANY(%(client_ids)b::text[])
   AND disabled_at IS NULL
UNION ALL
SELECT client_id, name, NULL, NULL, email
  FROM accounts
 WHERE client_id = ANY(%(client_ids)b::text[])
   AND name = ANY(%(accounts)b::text[])
   AND email IS NOT NULL;

-- insert_resources --
-- The resources that were opened, with everything that happened to them in this batch.
INSERT INTO resources (id, kind, available, created_at, unit, client_id, held, version, overdraft, per_account_limit,
                       starts_at, ends_at, gateway, confirm_above, approve_above, metadata, closed_at, digest,
                       last_entry_at, per_account_daily_limit, decimals, partition)
SELECT v.id, v.kind, v.available, v.created_at, v.unit, v.client_id, v.held, v.version, v.overdraft, v.per_account_limit,
       v.starts_at, v.ends_at, v.gateway, v.confirm_above, v.approve_above, v.metadata::jsonb, v.closed_at, v.digest,
       v.last_entry_at, v.per_account_daily_limit, v.decimals, v.partition
  FROM unnest(%(id)b::text[], %(kind)b::text[], %(available)b::bigint[], %(created_at)b::timestamptz[], %(unit)b::text[],
              %(client_id)b::text[], %(held)b::bigint[], %(version)b::bigint[], %(overdraft)b::bigint[],
              %(per_account_limit)b::bigint[], %(starts_at)b::timestamptz[], %(ends_at)b::timestamptz[],
              %(gateway)b::text[], %(confirm_above)b::bigint[], %(approve_above)b::bigint[], %(metadata)b::text[],
              %(closed_at)b::timestamptz[], %(digest)b::bytea[], %(last_entry_at)b::timestamptz[],
              %(per_account_daily_limit)b::bigint[], %(decimals)b::smallint[], %(partition)b::smallint[])
       AS v(id, kind, available, created_at, unit, client_id, held, version, overdraft, per_account_limit, starts_at,
            ends_at, gateway, confirm_above, approve_above, metadata, closed_at, digest, last_entry_at,
            per_account_daily_limit, decimals, partition);

-- update_rules --
UPDATE resources
   SET unit = %(unit)s, client_id = %(client_id)s, overdraft = %(overdraft)s, per_account_limit = %(per_account_limit)s,
       starts_at = %(starts_at)s, ends_at = %(ends_at)s, gateway = %(gateway)s, confirm_above = %(confirm_above)s,
       approve_above = %(approve_above)s, metadata = %(metadata)s, closed_at = %(closed_at)s,
       per_account_daily_limit = %(per_account_daily_limit)s
 WHERE id = %(id)s;

-- update_resources --
-- The quantities after the batch. The version is compared although the lock already protects the row.
UPDATE resources r
   SET available = v.available, held = v.held, version = v.version, digest = v.digest, last_entry_at = v.last_entry_at
  FROM unnest(%(ids)b::text[], %(versions_before)b::bigint[], %(availables)b::bigint[], %(helds)b::bigint[],
              %(versions)b::bigint[], %(digests)b::bytea[], %(last_entries)b::timestamptz[])
       AS v(id, version_before, available, held, version, digest, last_entry_at)
 WHERE r.id = v.id
   AND r.version = v.version_before;

-- insert_usages --
-- Usages that had no row when this batch read them. Without ON CONFLICT a row costs half the CPU. If there is one all the
-- same, the batch is refused, and its rows are read and written again.
INSERT INTO usages (resource_id, client_id, account, used, "limit")
SELECT *
  FROM unnest(%(resource_ids)b::text[], %(client_ids)b::text[], %(accounts)b::text[], %(used)b::bigint[],
              %(limits)b::bigint[]);

-- write_usages --
INSERT INTO usages (resource_id, client_id, account, used, "limit")
SELECT *
  FROM unnest(%(resource_ids)b::text[], %(client_ids)b::text[], %(accounts)b::text[], %(used)b::bigint[],
              %(limits)b::bigint[])
    ON CONFLICT (resource_id, client_id, account)
    DO UPDATE SET used = EXCLUDED.used, "limit" = EXCLUDED."limit";

-- rebuild_usages --
-- The usage of each account of a resource that got its first limit, from its entries and the sums of those that have left.
-- A refund reduces the usage of the
-- account that had taken. A leg that gives, and the refund of it, are no usage.
INSERT INTO usages (resource_id, client_id, account, used, "limit")
SELECT resource_id, client_id, account, used, greatest(used, %(limit)s)
  FROM (SELECT resource_id, client_id, account, greatest(0, sum(used))::bigint AS used
          FROM (SELECT e.resource_id, coalesce(original.client_id, r.client_id) AS client_id, e.account,
                       CASE WHEN e.kind = 'hold' OR (e.kind = 'debit' AND r.refund_of IS NULL) THEN e.amount
                            WHEN e.kind = 'release' OR (e.kind = 'credit' AND r.refund_of IS NOT NULL) THEN -e.amount
                            ELSE 0 END AS used
                  FROM entries e
                  JOIN requests r ON r.id = e.request_id
                  LEFT JOIN requests original ON original.id = r.refund_of
                 WHERE e.resource_id = %(resource_id)s
                   AND e.account IS NOT NULL
                 UNION ALL
                SELECT resource_id, client_id, account, used
                  FROM archived_usages
                 WHERE resource_id = %(resource_id)s) AS each
         GROUP BY 1, 2, 3) AS taken
    ON CONFLICT (resource_id, client_id, account)
    DO UPDATE SET used = EXCLUDED.used, "limit" = EXCLUDED."limit";

-- insert_daily_usages --
-- Daily usages that had no row when this batch read them.
INSERT INTO daily_usages (resource_id, client_id, account, day, used, "limit")
SELECT v.resource_id, v.client_id, v.account, v.day::date, v.used, v."limit"
  FROM unnest(%(resource_ids)b::text[], %(client_ids)b::text[], %(accounts)b::text[], %(days)b::text[],
              %(used)b::bigint[], %(limits)b::bigint[]) AS v(resource_id, client_id, account, day, used, "limit");

-- write_daily_usages --
INSERT INTO daily_usages (resource_id, client_id, account, day, used, "limit")
SELECT v.resource_id, v.client_id, v.account, v.day::date, v.used, v."limit"
  FROM unnest(%(resource_ids)b::text[], %(client_ids)b::text[], %(accounts)b::text[], %(days)b::text[],
              %(used)b::bigint[], %(limits)b::bigint[]) AS v(resource_id, client_id, account, day, used, "limit")
    ON CONFLICT (resource_id, client_id, account)
    DO UPDATE SET day = EXCLUDED.day, used = EXCLUDED.used, "limit" = EXCLUDED."limit";

-- rebuild_daily_usages --
-- The quantity that each account took on this day, of a resource that got its first daily limit. Accounts that took
-- under an earlier limit, and not on this day, begin with none.
INSERT INTO daily_usages (resource_id, client_id, account, day, used, "limit")
SELECT %(resource_id)s::text, client_id, account, %(day)s::date, used, greatest(used, %(limit)s)
  FROM (SELECT client_id, account, least(sum(amount), %(largest)s + 1::numeric)::bigint AS used
          FROM (SELECT client_id, account, 0 AS amount
                  FROM daily_usages
                 WHERE resource_id = %(resource_id)s
                 UNION ALL
                SELECT client_id, account, day_used
                  FROM archived_usages
                 WHERE resource_id = %(resource_id)s
                   AND day = %(day)s::date
                 UNION ALL
                SELECT r.client_id, e.account, e.amount
                  FROM entries e
                  JOIN requests r ON r.id = e.request_id
                 WHERE e.resource_id = %(resource_id)s
                   AND e.kind IN ('debit', 'hold')
                   AND r.refund_of IS NULL
                   AND e.account IS NOT NULL
                   AND (e.created_at AT TIME ZONE 'UTC')::date = %(day)s) AS taken
         GROUP BY client_id, account) AS summed
    ON CONFLICT (resource_id, client_id, account)
    DO UPDATE SET day = EXCLUDED.day, used = EXCLUDED.used, "limit" = EXCLUDED."limit";

-- insert_entries --
INSERT INTO entries (resource_id, version, kind, request_id, account, amount, available, held, created_at, digest)
SELECT *
  FROM unnest(%(resource_id)b::text[], %(version)b::bigint[], %(kind)b::text[], %(request_id)b::uuid[],
              %(account)b::text[], %(amount)b::bigint[], %(available)b::bigint[], %(held)b::bigint[],
              %(created_at)b::timestamptz[], %(digest)b::bytea[]);

-- insert_entries_of_legs --
-- The same, if some of them are of later legs.
INSERT INTO entries (resource_id, version, kind, request_id, account, amount, available, held, created_at, digest, leg)
SELECT *
  FROM unnest(%(resource_id)b::text[], %(version)b::bigint[], %(kind)b::text[], %(request_id)b::uuid[],
              %(account)b::text[], %(amount)b::bigint[], %(available)b::bigint[], %(held)b::bigint[],
              %(created_at)b::timestamptz[], %(digest)b::bytea[], %(leg)b::smallint[]);

-- supersede_states --
-- The rows are found one by one and updated by their place, because the planner would otherwise read all decisions.
UPDATE decisions
   SET current = false
 WHERE ctid = ANY(ARRAY(SELECT d.place
                          FROM unnest(%(request_ids)b::uuid[], %(versions)b::integer[]) AS v(request_id, version)
                         CROSS JOIN LATERAL (SELECT ctid AS place
                                               FROM decisions
                                              WHERE decisions.request_id = v.request_id
                                                AND decisions.version = v.version
                                                AND current
                                              LIMIT 1) d));

-- insert_plain_states --
-- First states with defaults in all fields after `code` and `sequence`.
INSERT INTO decisions (request_id, status, code, sequence, version, refunded, decided_at, at, actor)
SELECT v.*, 2, 0, %(now)s, %(now)s, %(actor)s
  FROM unnest(%(request_id)b::uuid[], %(status)b::text[], %(code)b::text[], %(sequence)b::bigint[]) AS v;

-- insert_states --
INSERT INTO decisions (request_id, status, code, sequence, decided_at, version, stage, reason, reference, refunded,
                       detail, trace, actor, leg, captured, current, at)
SELECT v.*, %(now)s
  FROM unnest(%(request_id)b::uuid[], %(status)b::text[], %(code)b::text[], %(sequence)b::bigint[],
              %(decided_at)b::timestamptz[], %(version)b::integer[], %(stage)b::text[], %(reason)b::text[],
              %(reference)b::text[], %(refunded)b::bigint[], %(detail)b::text[], %(trace)b::text[], %(actor)b::text[],
              %(leg)b::smallint[], %(captured)b::bigint[], %(current)b::boolean[]) AS v;

-- insert_effects --
INSERT INTO effects (request_id, client_id, partition, gateway, created_at, due_at)
SELECT v.*, %(now)s, %(now)s
  FROM unnest(%(request_ids)b::uuid[], %(client_ids)b::text[], %(partitions)b::smallint[], %(gateways)b::text[]) AS v;

-- retry_effects --
-- Due again with all tries ahead, unless a definite answer has come meanwhile.
UPDATE effects
   SET due_at = %(now)s, tries = 0, outcome = NULL, reason = NULL
 WHERE request_id = ANY(%(ids)b::uuid[])
   AND outcome IS DISTINCT FROM 'done'
   AND outcome IS DISTINCT FROM 'declined';

-- void_effects --
-- No further calls: the hold was released.
UPDATE effects
   SET due_at = NULL, voided_at = %(now)s
 WHERE request_id = ANY(%(ids)b::uuid[]);

-- insert_reservations --
INSERT INTO reservations (request_id, partition, expires_at, held, partitions)
SELECT v.request_id, v.partition, v.expires_at, v.held,
       CASE WHEN v.has_legs
            THEN (SELECT array_agg(DISTINCT legs.partition ORDER BY legs.partition) FROM legs WHERE legs.request_id = v.request_id)
       END
  FROM unnest(%(request_ids)b::uuid[], %(partitions)b::smallint[], %(expire_at)b::timestamptz[], %(held)b::bigint[],
              %(has_legs)b::boolean[])
       AS v(request_id, partition, expires_at, held, has_legs);

-- delete_reservations --
-- The holds that have ended.
DELETE FROM reservations
 WHERE request_id = ANY(%(ids)b::uuid[]);

-- check_holds_of_legs --
-- As the commit does, but early enough to find the request that is refused.
SET CONSTRAINTS whole_hold IMMEDIATE;

-- defer_holds_of_legs --
SET CONSTRAINTS whole_hold DEFERRED;

-- insert_codes --
-- A code for each request that began to wait for one. It is sent as soon as its destination has no cooldown. While the
-- account has a protected address, the code goes there.
INSERT INTO codes (id, client_id, destination, request_id, created_at, has_turn, due_at)
SELECT gen_random_uuid(), v.client_id,
       lower(CASE WHEN a.protected_until > %(now)s THEN a.protected_email ELSE v.destination END), v.request_id, %(now)s,
       false, %(now)s
  FROM unnest(%(request_ids)b::uuid[], %(client_ids)b::text[], %(destinations)b::text[])
       AS v(request_id, client_id, destination)
 CROSS JOIN LATERAL (SELECT account FROM requests WHERE requests.id = v.request_id LIMIT 1) AS r
  LEFT JOIN accounts a ON a.client_id = v.client_id AND a.name = r.account
    ON CONFLICT (request_id) WHERE request_id IS NOT NULL
    DO UPDATE SET id = excluded.id, destination = excluded.destination, created_at = excluded.created_at, wrong = 0,
                  expires_at = NULL, used_at = NULL, has_turn = false, due_at = excluded.due_at, tries = 0, token = NULL;

-- delete_codes --
-- The codes of requests that no longer wait for one.
DELETE FROM codes
 WHERE request_id = ANY(%(ids)b::uuid[]);

-- insert_mails --
-- The notifications by e-mail. Clients take turns, so each has its client.
INSERT INTO deliveries (request_id, version, type, email, client_id)
SELECT v.request_id, v.version, v.type, v.email, r.client_id
  FROM unnest(%(request_id)b::uuid[], %(version)b::integer[], %(type)b::text[], %(email)b::text[])
       AS v(request_id, version, type, email)
 CROSS JOIN LATERAL (SELECT client_id FROM requests WHERE requests.id = v.request_id LIMIT 1) AS r;

-- insert_fanout --
-- All notifications of this batch for one webhook, as one row. A courier expands it into deliveries.
INSERT INTO fanouts (webhook_id, request_ids, versions)
VALUES (%(webhook_id)s, %(request_ids)b::uuid[], %(versions)b::integer[]);
