-- Requests, entries, events, resources and gauges. %(client)s is the reader, and sees its own objects; NULL sees all.
-- {…} are the select lists of records/documents.sql.

-- read_request --
-- A request as it is now, and its position while it is undecided, exact up to the limit. Both are of the same instant.
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
       END
  FROM {request_tables}
 WHERE r.id = %(id)s
   AND (%(client)s::text IS NULL OR r.client_id = %(client)s);

-- read_requests --
-- The requests that clients wait for.
SELECT {request_columns}
  FROM {request_tables}
 WHERE r.id = ANY(%(ids)s);

-- list_requests --
-- Newest first. Undecided requests are found by their inbox rows, for the inbox is short.
SELECT {request_columns}
  FROM {request_tables}
 WHERE {filters}
 ORDER BY r.id DESC
 LIMIT %(limit)s;

-- filter_client --
r.client_id = %(client)s

-- filter_before --
r.id < %(before)s

-- filter_kind --
r.kind = %(kind)s

-- filter_resource --
r.resource_id = %(resource)s

-- filter_account --
r.account = %(account)s

-- filter_code --
d.code = %(code)s

-- filter_processing --
r.id IN (SELECT request_id FROM inbox WHERE verb = 'decide'
         UNION ALL
         SELECT request_id FROM decisions WHERE current AND status = 'processing')

-- filter_processing_check --
coalesce(d.status, 'processing') = 'processing'

-- filter_status --
d.status = %(status)s

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

-- read_state_at --
-- The quantities after the last entry up to a time.
SELECT version, available, held
  FROM entries
 WHERE resource_id = %(id)s
   AND created_at <= %(at)s
 ORDER BY version DESC
 LIMIT 1;

-- read_rules_until --
-- The opening and the amendments of a resource up to a time, in order.
SELECT r.details
  FROM requests r
  JOIN decisions d ON d.request_id = r.id AND d.current AND d.status = 'completed'
  JOIN request_kinds k ON k.kind = r.kind
 WHERE r.resource_id = %(id)s
   AND (k.opens OR k.amends)
   AND d.decided_at <= %(at)s
 ORDER BY d.sequence;

-- list_resources --
SELECT {resource_columns}
  FROM resources
 WHERE {filters}
 ORDER BY created_at DESC, id DESC
 LIMIT %(limit)s;

-- filter_resource_client --
(client_id IS NULL OR client_id = %(client)s)

-- filter_resource_kind --
kind = %(kind)s

-- filter_resource_before --
(created_at, id) < (%(before_at)s, %(before_id)s)

-- list_resource_entries --
-- Newest first.
SELECT {entry_columns}
  FROM entries e
 WHERE e.resource_id = %(id)s
   AND (%(before)s::bigint IS NULL OR e.version < %(before)s)
 ORDER BY e.version DESC
 LIMIT %(limit)s;

-- list_entries_of_own_resource --
-- Newest first. Entries of other clients' requests, from before the resource was this client's, show neither the account
-- nor the request. A refund belongs to the client whose request it gives back.
SELECT e.resource_id, e.version, e.kind, CASE WHEN o.client_id = %(client)s THEN e.request_id END,
       CASE WHEN o.client_id = %(client)s THEN e.account END, e.amount, e.available, e.held, e.created_at
  FROM (SELECT *
          FROM entries
         WHERE resource_id = %(id)s
           AND (%(before)s::bigint IS NULL OR version < %(before)s)
         ORDER BY version DESC
         LIMIT %(limit)s) AS e
  LEFT JOIN LATERAL (SELECT coalesce(original.client_id, r.client_id) AS client_id
                       FROM requests r
                       LEFT JOIN requests original ON original.id = r.refund_of
                      WHERE r.id = e.request_id
                      LIMIT 1) AS o ON true
 ORDER BY e.version DESC;

-- list_own_entries_of_shared_resource --
-- The entries of one client's requests and of their refunds, newest first.
SELECT {entry_columns}
  FROM entries e
  JOIN requests r ON r.id = e.request_id
  LEFT JOIN requests original ON original.id = r.refund_of
 WHERE e.resource_id = %(id)s
   AND coalesce(original.client_id, r.client_id) = %(client)s
   AND (%(before)s::bigint IS NULL OR e.version < %(before)s)
 ORDER BY e.version DESC
 LIMIT %(limit)s;

-- read_gauges --
-- Each count ends at a limit.
SELECT (SELECT count(*) FROM (SELECT FROM decisions WHERE current AND status = 'failed' LIMIT %(most)s) AS failed),
       (SELECT count(*) FROM (SELECT FROM decisions WHERE detail = 'paid_after_refund' LIMIT %(most)s) AS paid),
       (SELECT count(*) FROM (SELECT FROM deliveries WHERE due_at IS NOT NULL
                              UNION ALL SELECT FROM fanouts, unnest(request_ids)
                              LIMIT %(most)s) AS pending),
       (SELECT coalesce(jsonb_object_agg(name, open_until), '{}') FROM gateways);
