-- The race lab: a thing with a quantity, and the approvals of users. No constraint protects them here: protection is
-- the task of each strategy.

-- count_free_connections --
-- The connections that PostgreSQL still accepts from ordinary roles.
SELECT current_setting('max_connections')::integer
     - current_setting('superuser_reserved_connections')::integer
     - coalesce(current_setting('reserved_connections', true), '0')::integer
     - (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)::integer;

-- put_thing --
-- The stock of one race.
INSERT INTO lab_things (id, quantity) VALUES (%(thing)s, %(quantity)s);

-- read_quantity --
SELECT quantity FROM lab_things WHERE id = %(thing)s;

-- read_quantity_for_update --
-- The next transaction waits here until this one ends, and then reads its result.
SELECT quantity FROM lab_things WHERE id = %(thing)s FOR UPDATE;

-- write_quantity --
-- Stores the quantity that the program computed, without regard to the present one.
UPDATE lab_things SET quantity = %(quantity)s WHERE id = %(thing)s;

-- take_one --
-- Checks and writes in one statement. PostgreSQL locks the row, and checks it again if it has changed meanwhile.
UPDATE lab_things SET quantity = quantity - 1 WHERE id = %(thing)s AND quantity >= 1;

-- approve --
INSERT INTO lab_approvals (thing_id, user_number) VALUES (%(thing)s, %(user)s);

-- read_outcome --
-- The quantity after a race, and the number of approvals.
SELECT quantity, (SELECT count(*) FROM lab_approvals WHERE thing_id = %(thing)s)
  FROM lab_things
 WHERE id = %(thing)s;

-- remove --
WITH thing AS (
    DELETE FROM lab_things WHERE id = %(thing)s
)
DELETE FROM lab_approvals WHERE thing_id = %(thing)s;

-- remove_abandoned --
-- Removes the rows of races that were killed.
WITH abandoned AS (
    DELETE FROM lab_things WHERE created_at < now() - interval '1 hour' RETURNING id
)
DELETE FROM lab_approvals WHERE thing_id IN (SELECT id FROM abandoned);

-- count_workers --
SELECT count(*) FROM workers WHERE alive_until > clock_timestamp();

-- read_decisions --
-- The decisions of these requests, as far as there are any.
SELECT request_id, status, code, sequence
  FROM decisions
 WHERE current
   AND request_id = ANY(%(requests)s);

-- read_ledger --
-- The rest of a resource, and the sum of its debits.
SELECT available, (SELECT coalesce(sum(amount), 0)::bigint FROM entries WHERE resource_id = %(resource)s AND kind = 'debit')
  FROM resources
 WHERE id = %(resource)s;

-- save_result --
INSERT INTO lab_results (id, document) VALUES (%(id)s, %(document)s);

-- keep_latest --
-- Deletes all but the latest results.
DELETE FROM lab_results
 WHERE id IN (SELECT id FROM lab_results ORDER BY created_at DESC, id DESC OFFSET %(most)s);

-- read_result --
SELECT document, created_at FROM lab_results WHERE id = %(id)s;
