-- The state of the partitions and the outbox, for `/readyz` and the metrics. Each row is found by an index, and the cost
-- does not grow with the number of rows that wait.

-- read_partitions --
-- The number of paused partitions, of those without a worker for a while, and of those with old work that are not paused.
-- Then the age of the oldest work, and the number of decisions ever. A partition has no worker since its release, or since the lease of its owner expired.
-- The first row above the low-water mark counts as the oldest. A partition waits for a paused one if its oldest row is of a
-- request with a leg there. It also waits for a partition that waits itself.
WITH RECURSIVE heads AS MATERIALIZED (
    SELECT p.id, p.sequence, oldest.request_id, oldest.created_at
      FROM partitions p
      LEFT JOIN LATERAL (SELECT request_id, created_at
                           FROM inbox
                          WHERE inbox.partition = p.id
                            AND seq > p.low_water
                          ORDER BY seq
                          LIMIT 1) AS oldest ON true
), needed AS MATERIALIZED (
    SELECT heads.id, other.partition
      FROM heads
     CROSS JOIN LATERAL (SELECT partition FROM legs WHERE legs.request_id = heads.request_id LIMIT 10) AS other
), waiting AS (
    SELECT partition AS id FROM pauses
     UNION
    SELECT needed.id FROM waiting JOIN needed ON needed.partition = waiting.id
)
SELECT count(*) FILTER (WHERE state.is_paused),
       count(*) FILTER (WHERE state.free_since <= statement_timestamp() - make_interval(secs => %(unowned_seconds)s)),
       count(*) FILTER (WHERE NOT state.is_waiting AND state.age_seconds > %(undecided_seconds)s),
       greatest(0, coalesce(max(state.age_seconds), 0))::float8,
       sum(state.sequence)::bigint
  FROM (SELECT p.sequence, x.partition IS NOT NULL AS is_paused, p.id IN (SELECT id FROM waiting) AS is_waiting,
               CASE WHEN w.id IS NULL THEN o.since ELSE w.alive_until END AS free_since,
               extract(epoch FROM statement_timestamp() - p.created_at) AS age_seconds
          FROM heads p
          JOIN ownership o ON o.partition = p.id
          LEFT JOIN workers w ON w.id = o.worker_id
          LEFT JOIN pauses x ON x.partition = p.id) AS state;

-- count_rows --
-- The rows of the inbox, and the deliveries to present webhooks that failed for good, each up to a limit.
SELECT (SELECT count(*)
          FROM (SELECT
                  FROM partitions p
                 CROSS JOIN LATERAL (SELECT
                                       FROM inbox
                                      WHERE inbox.partition = p.id
                                        AND seq > p.low_water
                                      ORDER BY seq
                                      LIMIT (SELECT %(backlog_max)s::bigint)) AS waiting
                 LIMIT %(backlog_max)s) AS backlog),
       (SELECT count(*)
          FROM (SELECT
                  FROM (SELECT id FROM webhooks ORDER BY id LIMIT %(turns)s) AS endpoints
                 CROSS JOIN LATERAL (SELECT
                                       FROM deliveries d
                                      WHERE d.webhook_id = endpoints.id
                                        AND d.status = 'failed'
                                      ORDER BY d.webhook_id, d.status, d.id
                                      LIMIT (SELECT %(failed_max)s::bigint)) AS lost
                 LIMIT %(failed_max)s) AS failed);

-- count_overdue_effects --
-- The effects that have been due for a while, up to a limit. Each pair of gateway and client costs one step in the index.
WITH RECURSIVE waiting AS (
    (SELECT gateway, client_id, due_at, 1 AS number
       FROM effects
      WHERE due_at IS NOT NULL
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
     WHERE waiting.number < %(turns)s
)
SELECT count(*)
  FROM (SELECT
          FROM waiting
         CROSS JOIN LATERAL (SELECT
                               FROM effects e
                              WHERE e.gateway = waiting.gateway
                                AND e.client_id = waiting.client_id
                                AND e.due_at <= statement_timestamp() - make_interval(secs => %(overdue_seconds)s)
                              LIMIT (SELECT %(most)s::bigint)) AS late
         WHERE waiting.due_at <= statement_timestamp() - make_interval(secs => %(overdue_seconds)s)
         LIMIT %(most)s) AS overdue;

-- has_overdue_deliveries --
-- Whether a webhook delivery, a mail or a code has been due for a while. A fanout is due since the change that it
-- reports. Each webhook and each client costs one step in an index.
WITH RECURSIVE endpoints AS (
    (SELECT webhook_id, due_at, 1 AS number
       FROM deliveries
      WHERE due_at IS NOT NULL
        AND webhook_id IS NOT NULL
      ORDER BY webhook_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.webhook_id, following.due_at, endpoints.number + 1
      FROM endpoints
     CROSS JOIN LATERAL (SELECT d.webhook_id, d.due_at
                           FROM deliveries d
                          WHERE d.due_at IS NOT NULL
                            AND d.webhook_id > endpoints.webhook_id
                          ORDER BY d.webhook_id, d.due_at
                          LIMIT 1) AS following
     WHERE endpoints.number < %(turns)s
), mails AS (
    (SELECT client_id, due_at, 1 AS number
       FROM deliveries
      WHERE webhook_id IS NULL
        AND due_at IS NOT NULL
      ORDER BY client_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.client_id, following.due_at, mails.number + 1
      FROM mails
     CROSS JOIN LATERAL (SELECT d.client_id, d.due_at
                           FROM deliveries d
                          WHERE d.webhook_id IS NULL
                            AND d.due_at IS NOT NULL
                            AND d.client_id > mails.client_id
                          ORDER BY d.client_id, d.due_at
                          LIMIT 1) AS following
     WHERE mails.number < %(turns)s
), messages AS (
    (SELECT client_id, due_at, 1 AS number
       FROM codes
      WHERE has_turn
        AND due_at IS NOT NULL
      ORDER BY client_id, due_at
      LIMIT 1)
    UNION ALL
    SELECT following.client_id, following.due_at, messages.number + 1
      FROM messages
     CROSS JOIN LATERAL (SELECT c.client_id, c.due_at
                           FROM codes c
                          WHERE c.has_turn
                            AND c.due_at IS NOT NULL
                            AND c.client_id > messages.client_id
                          ORDER BY c.client_id, c.due_at
                          LIMIT 1) AS following
     WHERE messages.number < %(turns)s
), changes AS (
    (SELECT webhook_id, request_ids[1] AS request_id, versions[1] AS version, 1 AS number
       FROM fanouts
      ORDER BY webhook_id, id
      LIMIT 1)
    UNION ALL
    SELECT following.webhook_id, following.request_id, following.version, changes.number + 1
      FROM changes
     CROSS JOIN LATERAL (SELECT f.webhook_id, f.request_ids[1] AS request_id, f.versions[1] AS version
                           FROM fanouts f
                          WHERE f.webhook_id > changes.webhook_id
                          ORDER BY f.webhook_id, f.id
                          LIMIT 1) AS following
     WHERE changes.number < %(turns)s
)
SELECT EXISTS (SELECT FROM endpoints WHERE due_at <= statement_timestamp() - make_interval(secs => %(overdue_seconds)s))
    OR EXISTS (SELECT FROM mails WHERE due_at <= statement_timestamp() - make_interval(secs => %(overdue_seconds)s))
    OR EXISTS (SELECT FROM messages WHERE due_at <= statement_timestamp() - make_interval(secs => %(overdue_seconds)s))
    OR EXISTS (SELECT
                 FROM changes
                CROSS JOIN LATERAL (SELECT at
                                      FROM decisions
                                     WHERE decisions.request_id = changes.request_id
                                       AND decisions.version = changes.version
                                     LIMIT 1) AS d
                WHERE d.at <= statement_timestamp() - make_interval(secs => %(overdue_seconds)s));

-- read_attention --
-- The webhooks that fail, up to a limit. Then the most calls in a row without a definite answer, for each gateway that has
-- calls due. Without them, nothing shows whether it answers.
SELECT (SELECT count(*)
          FROM (SELECT
                  FROM webhooks
                 WHERE failing_since IS NOT NULL
                   AND disabled_at IS NULL
                 ORDER BY failing_since, id
                 LIMIT %(most)s) AS failing),
       (SELECT coalesce(jsonb_object_agg(u.gateway, u.failures), '{}')
          FROM (SELECT b.gateway, max(b.failures) AS failures
                  FROM (SELECT gateway, client_id, failures
                          FROM gateway_breakers
                         WHERE failures >= 3
                         ORDER BY gateway, client_id
                         LIMIT %(turns)s) AS b
                 WHERE (SELECT true
                          FROM effects e
                         WHERE e.gateway = b.gateway
                           AND e.client_id = b.client_id
                           AND e.due_at IS NOT NULL
                         ORDER BY e.gateway, e.client_id, e.due_at
                         LIMIT 1)
                 GROUP BY b.gateway) AS u);
