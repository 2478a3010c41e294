-- The race lab: a thing with a quantity, and who was let have it. Nothing here guards anything by itself: that is
-- what each strategy is there to do, or to fail at.

-- count_room --
-- How many more connections PostgreSQL takes from ordinary roles.
SELECT current_setting('max_connections')::integer
     - current_setting('superuser_reserved_connections')::integer
     - coalesce(current_setting('reserved_connections', true), '0')::integer
     - (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)::integer;

-- put_thing --
-- What one race is after.
INSERT INTO lab_things (id, quantity) VALUES (%(thing)s, %(quantity)s);

-- read_quantity --
SELECT quantity FROM lab_things WHERE id = %(thing)s;

-- read_quantity_for_update --
-- Whoever comes next waits here until this transaction is over, and then reads what it left.
SELECT quantity FROM lab_things WHERE id = %(thing)s FOR UPDATE;

-- write_quantity --
-- What the program worked out, whatever is there by now.
UPDATE lab_things SET quantity = %(quantity)s WHERE id = %(thing)s;

-- take_one --
-- Check and write in one statement: the row is locked, and looked at again when another has changed it meanwhile.
UPDATE lab_things SET quantity = quantity - 1 WHERE id = %(thing)s AND quantity >= 1;

-- approve --
INSERT INTO lab_approvals (thing_id, user_number) VALUES (%(thing)s, %(user)s);

-- read_books --
-- What a race left behind: the quantity, and how many were let have one.
SELECT quantity, (SELECT count(*) FROM lab_approvals WHERE thing_id = %(thing)s)
  FROM lab_things
 WHERE id = %(thing)s;

-- remove --
WITH thing AS (
    DELETE FROM lab_things WHERE id = %(thing)s
)
DELETE FROM lab_approvals WHERE thing_id = %(thing)s;

-- remove_forgotten --
-- What a race that was killed left behind.
WITH forgotten AS (
    DELETE FROM lab_things WHERE created_at < now() - interval '1 hour' RETURNING id
)
DELETE FROM lab_approvals WHERE thing_id IN (SELECT id FROM forgotten);

-- count_workers --
SELECT count(*) FROM workers WHERE alive_until > clock_timestamp();

-- read_decisions --
-- What became of these requests, as far as it is decided.
SELECT request_id, status, code, sequence
  FROM decisions
 WHERE current
   AND request_id = ANY(%(requests)s);

-- read_ledger --
-- What is left of a resource, and how much the ledger says was taken.
SELECT available, (SELECT coalesce(sum(amount), 0)::bigint FROM entries WHERE resource_id = %(resource)s AND kind = 'debit')
  FROM resources
 WHERE id = %(resource)s;

-- save_result --
INSERT INTO lab_results (id, document) VALUES (%(id)s, %(document)s);

-- keep_latest --
-- All but the latest are deleted.
DELETE FROM lab_results
 WHERE id IN (SELECT id FROM lab_results ORDER BY created_at DESC, id DESC OFFSET %(most)s);

-- read_result --
SELECT document, created_at FROM lab_results WHERE id = %(id)s;
