-- Reservations that are held.

-- accept --
-- Accepts the first command for a hold, before its expiry. A second one, and a late one, find no row.
UPDATE reservations
   SET command = %(command)s, accepted_at = statement_timestamp(), amount = %(amount)s
 WHERE request_id = %(request_id)s
   AND command IS NULL
   AND expires_at > statement_timestamp()
RETURNING partition;

-- expired --
-- The partitions with reservations whose time is over, and for those with legs the partitions of all legs. A failed one
-- keeps its hold until an operator acts.
SELECT DISTINCT v.partition, v.partitions
  FROM reservations v
 WHERE v.command IS NULL
   AND v.expires_at <= statement_timestamp()
   AND v.partition = ANY(%(partitions)s::smallint[])
   AND NOT EXISTS (SELECT FROM pauses WHERE pauses.partition = v.partition)
   AND (v.partitions IS NULL OR NOT EXISTS (SELECT FROM pauses WHERE pauses.partition = ANY(v.partitions)))
   AND EXISTS (SELECT FROM decisions d WHERE d.request_id = v.request_id AND d.current AND d.stage = 'held');
