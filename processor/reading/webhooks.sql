-- Webhooks and deliveries. A list of deliveries merges one list for each status, each an index range. So
-- its cost does not depend on the share of each status.

-- list_webhooks --
-- Newest first.
SELECT {webhook_columns}
  FROM webhooks
 WHERE {filters}
 ORDER BY created_at DESC, id DESC
 LIMIT %(limit)s;

-- read_recent --
-- The statuses of the newest deliveries of each of these webhooks, in the order of the ids.
SELECT recent.statuses, recent.newest_at
  FROM unnest(%(ids)b::uuid[]) WITH ORDINALITY AS found(id, place)
 CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(newest.status ORDER BY newest.id DESC), '{}') AS statuses,
           max(newest.created_at) AS newest_at
      FROM (SELECT d.id, d.status, d.created_at
              FROM unnest(ARRAY['pending', 'delivered', 'failed']) AS s(status)
             CROSS JOIN LATERAL (SELECT id, status, created_at
                                   FROM deliveries
                                  WHERE webhook_id = found.id
                                    AND status = s.status
                                  ORDER BY id DESC
                                  LIMIT %(recent)s) AS d
             ORDER BY d.id DESC
             LIMIT %(recent)s) AS newest) AS recent
 ORDER BY found.place;

-- filter_client --
client_id = %(client)s

-- filter_disabled --
disabled_at IS NOT NULL

-- filter_failing --
failing_since IS NOT NULL AND disabled_at IS NULL

-- filter_before --
(created_at, id) < (%(before_at)s, %(before_id)s)

-- list_deliveries --
-- Newest first, and whether a courier is sending each.
SELECT {delivery_columns}, d.token IS NOT NULL AND d.due_at > now()
  FROM unnest(%(statuses)s::text[]) AS s(status)
 CROSS JOIN LATERAL (SELECT *
                       FROM deliveries
                      WHERE webhook_id = %(id)s
                        AND status = s.status
                        AND id < %(before)s
                      ORDER BY id DESC
                      LIMIT %(limit)s) AS d
 ORDER BY d.id DESC
 LIMIT %(limit)s;

-- count_deliveries --
-- The pending deliveries, the failed ones, the newest of those, and the notifications in the oldest fanouts. Each count
-- ends at a limit.
SELECT (SELECT count(*) FROM (SELECT FROM deliveries WHERE webhook_id = %(id)s AND status = 'pending'
                               LIMIT %(most)s) AS open),
       failed.number, failed.newest,
       (SELECT coalesce(sum(cardinality(request_ids)), 0)::bigint
          FROM (SELECT webhook_id, request_ids FROM fanouts ORDER BY id LIMIT %(fanouts)s) AS oldest
         WHERE webhook_id = %(id)s)
  FROM (SELECT count(*) AS number, max(id) AS newest
          FROM (SELECT id
                  FROM deliveries
                 WHERE webhook_id = %(id)s
                   AND status = 'failed'
                 ORDER BY id
                 LIMIT %(most_failed)s) AS oldest) AS failed;
