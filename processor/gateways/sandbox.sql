-- The calls and payouts of the sandbox gateway.

-- lock_key --
-- One call of a key at a time. The read is the next statement, and so it sees all that the call before has committed.
SELECT pg_advisory_xact_lock(%(lock_class)s, hashtext(%(request_id)s::text));

-- read_past --
-- The number of calls for this request, and whether it was paid.
SELECT (SELECT count(*) FROM sandbox_calls WHERE request_id = %(request_id)s),
       EXISTS (SELECT FROM sandbox_payouts WHERE request_id = %(request_id)s);

-- insert_payout --
INSERT INTO sandbox_payouts (request_id) VALUES (%(request_id)s);

-- insert_call --
INSERT INTO sandbox_calls (request_id, status) VALUES (%(request_id)s, %(status)s);

-- list_calls --
-- The calls for one request with the status of each answer, oldest first.
SELECT at, status
  FROM sandbox_calls
 WHERE request_id = %(request_id)s
 ORDER BY id;

-- count_payouts --
SELECT count(*)
  FROM sandbox_payouts
 WHERE request_id = %(request_id)s;
