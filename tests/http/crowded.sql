-- A database with much data, for the plans of queries.
-- It has 200,000 requests of 200 resources with 1,000,000 states. Half of the requests are failed. Half of those belong
-- to one resource, and so do the few requests of one client. Rejected requests and deposits are rare.
-- The rows are written without a worker, so `verify` finds discrepancies.
SET session_replication_role = replica;
SET synchronous_commit = off;
SET maintenance_work_mem = '128MB';

INSERT INTO clients (id) SELECT 'client-' || n FROM generate_series(0, 19) AS n;
INSERT INTO clients (id) VALUES ('client-rare');
INSERT INTO api_keys (id, client_id, name, role, digest)
SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'client-' || n % 20, 'key ' || n,
       CASE n % 50 WHEN 0 THEN 'admin' WHEN 1 THEN 'operator' ELSE 'client' END, sha256(n::text::bytea)
  FROM generate_series(0, 1999) AS n;
INSERT INTO resources (id, kind, unit, partition, available, held, version, gateway, created_at, digest, last_entry_at)
SELECT 'resource:' || n, 'balance', CASE n % 3 WHEN 0 THEN 'EUR' WHEN 1 THEN 'GBP' ELSE 'points' END, n % 64, 1000000,
       0, 1, 'sandbox', now() - n * interval '1 minute', sha256(''), now()
  FROM generate_series(0, 199) AS n;

-- Resources of other clients.
INSERT INTO resources (id, kind, client_id, partition, available, created_at, digest)
SELECT 'user:' || n, 'seat', 'client-' || n % 4, 0, 1, now() + n * interval '1 second', sha256('')
  FROM generate_series(1, 20000) AS n;

CREATE TEMP TABLE asked AS
SELECT n, (lpad(to_hex(1795000000000 + n * 40), 12, '0') || '7' || substr(digest, 1, 3) || '8'
           || substr(digest, 4, 15))::uuid AS id,
       CASE WHEN n % 40000 = 1 THEN 'client-rare' ELSE 'client-' || n % 20 END AS client_id,
       CASE WHEN n % 4 = 1 THEN 0 ELSE n % 200 END AS resource, 'account-' || n % 5000 AS account, 1 + n % 500 AS amount,
       to_timestamp(1795000000 + n * 0.04) AS at,
       CASE WHEN n % 2 = 1 THEN 'failed' WHEN n % 2000 = 2 THEN 'processing' WHEN n % 40000 = 6 THEN 'rejected'
            ELSE 'completed' END AS status
  FROM (SELECT n, md5(n::text) AS digest FROM generate_series(1, 200000) AS n) AS numbers;

-- The indexes are dropped and made again at the end, which is several times faster.
CREATE TEMP TABLE made AS
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS statement
  FROM pg_index
 WHERE indrelid::regclass::text IN ('requests', 'decisions', 'entries', 'attempts', 'deliveries', 'audit')
   AND NOT indisprimary
   AND indexrelid NOT IN (SELECT conindid FROM pg_constraint);
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT name FROM made LOOP
        EXECUTE 'DROP INDEX ' || one.name;
    END LOOP;
    -- The checks of 200,000 rows would take seconds, and no plan depends on them.
    FOR one IN SELECT conname FROM pg_constraint WHERE conrelid = 'requests'::regclass AND contype = 'c' LOOP
        EXECUTE 'ALTER TABLE requests DROP CONSTRAINT ' || one.conname;
    END LOOP;
END $$;

INSERT INTO requests (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account,
                      amount, created_at, details)
SELECT id, client_id, ('00000000-0000-7000-8000-' || lpad((n % 2000)::text, 12, '0'))::uuid, 'key-' || n, '\x0000000000000000000000000000000000000000000000000000000000000000',
       CASE n % 40000 WHEN 8 THEN 'deposit' WHEN 9 THEN 'amendment' ELSE 'withdrawal' END,
       resource % 64, 'resource:' || resource, account, amount, at, CASE n % 40 WHEN 3 THEN jsonb '{"legs": []}' END
  FROM asked;

-- 5,000 of them have a later leg of the resource that has most requests, and of another one.
INSERT INTO legs (request_id, leg, resource_id, partition, take)
SELECT id, leg, 'resource:' || CASE leg WHEN 0 THEN resource WHEN 1 THEN 0 ELSE (resource + 5) % 200 END, 0, 1
  FROM asked, generate_series(0, 2) AS leg
 WHERE n % 40 = 3;

INSERT INTO decisions (request_id, version, current, status, stage, sequence, decided_at, at, actor)
SELECT id, version, false, 'processing', 'settling', n, at, at, 'teller'
  FROM asked, generate_series(2, 5) AS version;
INSERT INTO decisions (request_id, version, current, status, stage, code, reason, sequence, decided_at, at, actor)
SELECT id, 6, true, status, CASE status WHEN 'processing' THEN 'awaiting_approval' END,
       CASE status WHEN 'failed' THEN CASE WHEN n % 3 = 0 THEN 'processor_error' ELSE 'gateway_unreachable' END
                   WHEN 'rejected' THEN 'ended' END,
       CASE status WHEN 'failed' THEN 'answered 503' END, n, at, at + interval '1 minute', 'teller'
  FROM asked;

INSERT INTO entries (resource_id, version, kind, request_id, account, amount, available, held, created_at, digest)
SELECT 'resource:' || resource, row_number() OVER (PARTITION BY resource ORDER BY n), 'hold', id, account, amount, 1000,
       amount, at, sha256('')
  FROM asked
 WHERE n % 2 = 1;
UPDATE resources
   SET version = written.count
  FROM (SELECT resource_id, count(*) FROM entries GROUP BY resource_id) AS written
 WHERE id = resource_id;

INSERT INTO attempts (request_id, token, started_at, ended_at, status, outcome)
SELECT id, id, at, at + interval '1 second', 503, 'unknown' FROM asked WHERE n % 2 = 1;
INSERT INTO effects (request_id, partition, gateway, created_at, tries, outcome)
SELECT id, resource % 64, 'sandbox', at, 6, 'unknown' FROM asked WHERE n % 2 = 1;
INSERT INTO webhooks (id, client_id, url, secret)
SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'client-' || n % 20, 'https://example.com/' || n,
       sha256('') FROM generate_series(0, 99) AS n;

INSERT INTO deliveries (request_id, version, type, webhook_id, status, due_at, tries, created_at)
SELECT id, 3, 'request.failed', ('00000000-0000-7000-8000-' || lpad((n % 100)::text, 12, '0'))::uuid,
       CASE n % 4 WHEN 3 THEN 'failed' ELSE 'delivered' END, NULL, 1, at FROM asked WHERE n % 2 = 1;

INSERT INTO audit (at, actor, action, request_id, reason)
SELECT at, 'client-' || n % 20 || ' (admin key ' || n % 50 || ')', CASE n % 4 WHEN 3 THEN 'replay' ELSE 'refund' END, id,
       'the bank is back' FROM asked WHERE n % 2 = 1;

INSERT INTO inbox (partition, request_id, verb)
SELECT resource % 64, id, CASE n % 20 WHEN 1 THEN 'cancel' ELSE 'decide' END FROM asked WHERE n % 20 IN (1, 2);
INSERT INTO bulk_actions (id, action, reason, filter, actor, client_id, key_id, matched, done, sent, finished_at)
SELECT '00000000-0000-7000-8000-000000000001'::uuid, 'replay', 'the bank is back', '{}', 'an operator', 'client-1',
       '00000000-0000-7000-8000-000000000000'::uuid, 100000, 100000, 100000, now();

INSERT INTO bulk_items (action_id, place, request_id, version, outcome)
SELECT '00000000-0000-7000-8000-000000000001', row_number() OVER (ORDER BY n), id, 6, 'sent' FROM asked WHERE n % 2 = 1;

DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT statement FROM made LOOP
        EXECUTE one.statement;
    END LOOP;
END $$;
VACUUM (ANALYZE) requests, legs, decisions, entries, attempts, deliveries, effects, inbox, audit, resources, api_keys, bulk_items;
