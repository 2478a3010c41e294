-- Operators pause partitions and resume them.

-- partition_exists --
SELECT EXISTS (SELECT FROM partitions WHERE id = %(partition)s);

-- lock_partition --
-- Waits for the current batch. Later batches see the changes of the transaction that holds this lock.
SELECT pg_advisory_xact_lock(%(lock_class)s, %(partition)s);

-- pause --
-- Inserts no row if the partition is paused already.
INSERT INTO pauses (partition, actor)
VALUES (%(partition)s, %(actor)s)
    ON CONFLICT DO NOTHING;

-- resume --
DELETE FROM pauses WHERE partition = %(partition)s;
