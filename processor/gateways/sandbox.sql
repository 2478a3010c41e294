-- The sandbox gateway: what it was asked, and what it paid.

-- lock_key --
-- One call of a key at a time; a statement of its own, so that the next one sees what the call before wrote.
SELECT pg_advisory_xact_lock(%(lock_class)s, hashtext(%(request_id)s::text));

-- read_past --
-- How often it was asked for this request, and whether it has paid.
SELECT (SELECT count(*) FROM sandbox_calls WHERE request_id = %(request_id)s),
       EXISTS (SELECT FROM sandbox_payouts WHERE request_id = %(request_id)s);

-- insert_payout --
INSERT INTO sandbox_payouts (request_id) VALUES (%(request_id)s);

-- insert_call --
INSERT INTO sandbox_calls (request_id, status) VALUES (%(request_id)s, %(status)s);

-- list_calls --
-- What it answered to one request, oldest first.
SELECT at, status
  FROM sandbox_calls
 WHERE request_id = %(request_id)s
 ORDER BY id;

-- count_payouts --
SELECT count(*)
  FROM sandbox_payouts
 WHERE request_id = %(request_id)s;
