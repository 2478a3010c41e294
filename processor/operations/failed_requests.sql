-- Replays of failed requests, and the originals of refunds.

-- failed_requests --
-- The failed requests that match a filter, in the order of their first decisions.
SELECT d.request_id, r.partition
  FROM decisions d
  JOIN requests r ON r.id = d.request_id
 WHERE d.current
   AND d.status = 'failed'
   AND (%(code)s::text IS NULL OR d.code = %(code)s)
   AND (%(resource)s::text IS NULL OR r.resource_id = %(resource)s
        OR EXISTS (SELECT FROM legs WHERE legs.request_id = r.id AND legs.resource_id = %(resource)s))
 ORDER BY r.partition, d.sequence;

-- failed_among --
-- The failed requests among these, in the order of their first decisions.
SELECT d.request_id, r.partition
  FROM decisions d
  JOIN requests r ON r.id = d.request_id
 WHERE d.current
   AND d.status = 'failed'
   AND d.request_id = ANY(%(ids)b::uuid[])
 ORDER BY r.partition, d.sequence;

-- replay --
-- Appends commands to the inbox in the order given, and audit lines. Skips requests with such a command already.
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

-- read_originals --
SELECT r.id, r.resource_id, r.account, r.details
  FROM unnest(%(ids)b::uuid[]) WITH ORDINALITY AS v(id, place)
  JOIN requests r ON r.id = v.id
 ORDER BY v.place;
