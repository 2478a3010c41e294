-- Requests that wait for an admin, and what an admin does with them.

-- failed_requests --
-- Those that match a filter, in the order in which they were decided at first.
SELECT d.request_id, r.partition
  FROM decisions d
  JOIN requests r ON r.id = d.request_id
 WHERE d.current
   AND d.status = 'failed'
   AND (%(code)s::text IS NULL OR d.code = %(code)s)
   AND (%(resource)s::text IS NULL OR r.resource_id = %(resource)s)
 ORDER BY r.partition, d.sequence;

-- failed_among --
-- Which of these are failed, in the order in which they were decided at first.
SELECT d.request_id, r.partition
  FROM decisions d
  JOIN requests r ON r.id = d.request_id
 WHERE d.current
   AND d.status = 'failed'
   AND d.request_id = ANY(%(ids)b::uuid[])
 ORDER BY r.partition, d.sequence;

-- replay --
-- To the end of their queues, in the order given. One that is on its way already is not sent twice.
WITH chosen AS (
    SELECT *
      FROM unnest(%(ids)b::uuid[], %(partitions)b::smallint[]) WITH ORDINALITY AS v(id, partition, place)
), queued AS (
    INSERT INTO inbox (partition, request_id, verb, payload)
    SELECT partition, id, 'replay', jsonb_build_object('actor', %(actor)s::text)
      FROM chosen
     ORDER BY place
        ON CONFLICT (request_id, verb, leg) DO NOTHING
    RETURNING request_id, partition
), noted AS (
    INSERT INTO audit (actor, action, request_id, reason)
    SELECT %(actor)s, 'replay', request_id, %(reason)s
      FROM queued
)
SELECT request_id, partition
  FROM queued;

-- read_original --
-- What a refund is of: its client, resource and account.
SELECT client_id, resource_id, account
  FROM requests
 WHERE id = %(id)s;
