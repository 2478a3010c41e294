-- Requests, entries, events, resources and gauges. %(client)s is the reader, and sees its own objects; NULL sees all.
-- {…} are the select lists of records/documents.sql.

-- read_request --
-- A request as it is now. While it is undecided, also its position, exact up to the limit, and the first paused partition
-- of its legs. All are of the same instant.
SELECT {request_columns},
       CASE WHEN d.request_id IS NULL THEN
            (SELECT count(*)
               FROM (SELECT FROM inbox i
                      WHERE i.partition = r.partition
                        AND i.seq > (SELECT low_water FROM partitions WHERE partitions.id = r.partition)
                        AND i.verb IN ('decide', 'replay')
                        AND i.seq < (SELECT mine.seq
                                       FROM inbox mine
                                      WHERE mine.request_id = r.id AND mine.verb = 'decide' AND mine.leg = 0)
                      LIMIT %(position_limit)s) AS ahead)
       END,
       CASE WHEN d.request_id IS NULL AND r.details ? 'legs' THEN
            (SELECT min(partition) FROM legs JOIN pauses USING (partition) WHERE legs.request_id = r.id)
       END
  FROM {request_tables}
 WHERE r.id = %(id)s
   AND (%(client)s::text IS NULL OR r.client_id = %(client)s);

-- read_requests --
-- The requests that clients wait for.
SELECT {request_columns}
  FROM {request_tables}
 WHERE r.id = ANY(%(ids)s);

-- list_request_entries --
-- The entries of a request and of its refunds, newest first. If the resource belongs to another client now, its
-- quantities are not shown.
SELECT e.resource_id, e.version, e.kind, e.request_id, e.account, e.amount,
       CASE WHEN t.is_visible THEN e.available END, CASE WHEN t.is_visible THEN e.held END, e.created_at
  FROM entries e
 CROSS JOIN LATERAL (SELECT %(client)s::text IS NULL OR client_id IS NULL OR client_id = %(client)s AS is_visible
                       FROM resources
                      WHERE resources.id = e.resource_id
                      LIMIT 1) AS t
 WHERE e.request_id = ANY(%(id)s::uuid || ARRAY(SELECT r.id FROM requests r WHERE r.refund_of = %(id)s))
   AND (%(before_at)s::timestamptz IS NULL
        OR (e.created_at, e.resource_id, e.version) < (%(before_at)s, %(before_resource)s, %(before_version)s))
 ORDER BY e.created_at DESC, e.resource_id DESC, e.version DESC
 LIMIT %(limit)s;

-- read_events --
-- The acceptance of a request, and each of its states.
SELECT r.created_at, 'processing', 'queued', r.client_id, 'accepted', NULL::text, 1
  FROM requests r
 WHERE r.id = %(id)s
UNION ALL
SELECT d.at, d.status, d.stage, d.actor, d.detail, CASE WHEN %(traces)s THEN d.trace END, d.version
  FROM decisions d
 WHERE d.request_id = %(id)s
 ORDER BY 7;

-- read_resource --
SELECT {resource_columns}
  FROM resources
 WHERE id = %(id)s
   AND (%(client)s::text IS NULL OR client_id IS NULL OR client_id = %(client)s);

-- read_last_checkpoint --
-- The time from which on all entries of a resource are in the database.
SELECT created_at
  FROM checkpoints
 WHERE resource_id = %(id)s
 ORDER BY version DESC
 LIMIT 1;

-- read_state_at --
-- The quantities after the last entry up to a time, which is not before the last checkpoint. The times of entries never run
-- backwards, so each step halves the versions in question. That of the last entry is at least `low` and at most `high`.
WITH RECURSIVE halves(low, high) AS (
    SELECT coalesce((SELECT max(version) FROM checkpoints WHERE resource_id = %(id)s), 0), version
      FROM resources
     WHERE id = %(id)s
    UNION ALL
    SELECT CASE WHEN m.is_after THEN low ELSE m.middle END, CASE WHEN m.is_after THEN m.middle - 1 ELSE high END
      FROM halves
     CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS middle,
                                (SELECT created_at > %(at)s
                                   FROM entries
                                  WHERE resource_id = %(id)s
                                    AND version = (low + high + 1) / 2) AS is_after) AS m
     WHERE low < high
)
SELECT version, available, held
  FROM entries
 WHERE resource_id = %(id)s
   AND version = (SELECT low FROM halves WHERE low >= high)
 UNION ALL
SELECT version, available, held
  FROM checkpoints
 WHERE resource_id = %(id)s
   AND version = (SELECT low FROM halves WHERE low >= high);

-- read_rules_until --
-- The opening and the amendments of a resource up to a time, in order. They have an index of their own.
SELECT r.details
  FROM (SELECT id, details
          FROM requests
         WHERE resource_id = %(id)s
           AND kind IN ({rule_kinds})
        OFFSET 0) AS r
 CROSS JOIN LATERAL (SELECT decided_at, sequence
                       FROM decisions
                      WHERE decisions.request_id = r.id
                        AND current
                        AND status = 'completed'
                      LIMIT 1) AS d
 WHERE d.decided_at <= %(at)s
 ORDER BY d.sequence;

-- list_resources --
SELECT {resource_columns}
  FROM resources
 WHERE {before}
   AND (%(without)s::text IS NULL OR client_id IS DISTINCT FROM %(without)s)
 ORDER BY created_at DESC, id DESC
 LIMIT %(limit)s;

-- list_resources_of_kind --
SELECT {resource_columns}
  FROM resources
 WHERE kind = %(kind)s
   AND {before}
   AND (%(without)s::text IS NULL OR client_id IS DISTINCT FROM %(without)s)
 ORDER BY created_at DESC, id DESC
 LIMIT %(limit)s;

-- list_resources_of_client --
-- Those for all and those of the client. It merges one list for each of these and each kind.
SELECT {resource_columns}
  FROM (SELECT of_all.*
          FROM unnest(%(kinds)s::text[]) AS k(name)
         CROSS JOIN LATERAL (SELECT *
                               FROM resources
                              WHERE client_id IS NULL AND kind = k.name AND {before}
                              ORDER BY created_at DESC, id DESC
                              LIMIT %(limit)s) AS of_all
        UNION ALL
        SELECT own.*
          FROM unnest(%(kinds)s::text[]) AS k(name)
         CROSS JOIN LATERAL (SELECT *
                               FROM resources
                              WHERE client_id = %(client)s AND kind = k.name AND {before}
                              ORDER BY created_at DESC, id DESC
                              LIMIT %(limit)s) AS own) AS either
 ORDER BY created_at DESC, id DESC
 LIMIT %(limit)s;

-- before_resource --
(created_at, id) < (%(before_at)s, %(before_id)s)

-- list_resource_entries --
-- Newest first.
SELECT {entry_columns}
  FROM entries e
 WHERE e.resource_id = %(id)s
   AND e.version < %(before)s
 ORDER BY e.version DESC
 LIMIT %(limit)s;

-- list_entries_of_own_resource --
-- Newest first. Entries of other clients' requests, from before the resource was this client's, show neither the account
-- nor the request. A refund belongs to the client whose request it gives back. Openings and deposits are of no client
-- before: only operators make them.
SELECT e.resource_id, e.version, e.kind, CASE WHEN o.is_shown THEN e.request_id END,
       CASE WHEN o.is_shown THEN e.account END, e.amount, e.available, e.held, e.created_at
  FROM (SELECT *
          FROM entries
         WHERE resource_id = %(id)s
           AND version < %(before)s
         ORDER BY version DESC
         LIMIT %(limit)s) AS e
  LEFT JOIN LATERAL (SELECT coalesce(original.client_id, r.client_id) = %(client)s
                            OR r.kind IN ({operators_kinds}) AS is_shown
                       FROM requests r
                       LEFT JOIN requests original ON original.id = r.refund_of
                      WHERE r.id = e.request_id
                      LIMIT 1) AS o ON true
 ORDER BY e.version DESC;

-- list_own_entries_by_resource --
-- The entries of one client's requests and of their refunds, newest first, among the newest entries of the resource.
-- With the version at which this walk ended, if it ended before the page was full and before the first entry.
WITH page AS MATERIALIZED (
    SELECT {entry_columns}
      FROM (SELECT *
              FROM entries
             WHERE resource_id = %(id)s
               AND version < %(before)s
             ORDER BY version DESC
             LIMIT %(walked)s) AS e
     CROSS JOIN LATERAL (SELECT coalesce(original.client_id, r.client_id) AS client_id
                           FROM requests r
                           LEFT JOIN requests original ON original.id = r.refund_of
                          WHERE r.id = e.request_id
                          LIMIT 1) AS o
     WHERE o.client_id = %(client)s
     ORDER BY e.version DESC
     LIMIT %(limit)s
)
SELECT CASE WHEN (SELECT count(*) FROM page) < %(limit)s THEN
            (SELECT version
               FROM entries
              WHERE resource_id = %(id)s
                AND version < %(before)s
              ORDER BY version DESC
             OFFSET %(walked)s - 1
              LIMIT 1)
       END, page.*
  FROM (VALUES (true)) AS always(is_there)
  LEFT JOIN page ON true
 ORDER BY page.version DESC;

-- list_own_entries_by_client --
-- The same, by way of the requests of the client. With 0 in front if these are too many.
WITH own AS MATERIALIZED (
    SELECT id FROM requests WHERE client_id = %(client)s ORDER BY id DESC LIMIT %(walked)s
), page AS MATERIALIZED (
    SELECT {entry_columns}
      FROM (SELECT id FROM own
            UNION ALL
            SELECT refund.id
              FROM own
             CROSS JOIN LATERAL (SELECT id FROM requests WHERE refund_of = own.id OFFSET 0) AS refund) AS mine
     CROSS JOIN LATERAL (SELECT * FROM entries WHERE entries.request_id = mine.id OFFSET 0) AS e
     WHERE (SELECT count(*) FROM own) < %(walked)s
       AND e.resource_id = %(id)s
       AND e.version < %(before)s
     ORDER BY e.version DESC
     LIMIT %(limit)s
)
SELECT CASE WHEN (SELECT count(*) FROM own) >= %(walked)s THEN 0 END, page.*
  FROM (VALUES (true)) AS always(is_there)
  LEFT JOIN page ON true
 ORDER BY page.version DESC;

-- read_gauges --
-- Each count ends at a limit.
SELECT (SELECT count(*) FROM (SELECT FROM decisions WHERE current AND status = 'failed' LIMIT %(most)s) AS failed),
       (SELECT count(*) FROM (SELECT FROM decisions WHERE detail = 'paid_after_refund' LIMIT %(most)s) AS paid),
       (SELECT count(*) FROM (SELECT FROM deliveries WHERE due_at IS NOT NULL
                              UNION ALL SELECT FROM fanouts, unnest(request_ids)
                              LIMIT %(most)s) AS pending),
       (SELECT coalesce(jsonb_object_agg(name, CASE WHEN {is_unavailable} THEN open_until END), '{}') FROM gateways);

-- is_unavailable --
-- A gateway with an open breaker is unavailable while its calls are paused, and then while calls are due. Without calls,
-- nothing shows whether it answers.
open_until > clock_timestamp()
       OR (open_until IS NOT NULL
           AND (SELECT true FROM effects WHERE effects.gateway = gateways.name AND due_at IS NOT NULL
                 ORDER BY gateway, client_id, due_at LIMIT 1))
