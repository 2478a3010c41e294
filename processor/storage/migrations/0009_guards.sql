-- Version 9.
--   1. Rows are inserted and updated by the columns that a role needs, and workers and couriers write no audit.
--   2. Each role writes its own verbs into the inbox. A command of a person needs its line in the audit.
--   3. A gateway's yes or no, a revocation, and the use of a code are final.
--   4. Functions find tables in `public`, and none in pg_temp.
-- Statements of the version before work during and after this migration: their columns are granted.
-- Each statement takes one table, because batches lock several, in another order. All are repeatable.
-- transactional: no

-- pinned_functions --
ALTER FUNCTION refuse_change() SET search_path = pg_catalog, public, pg_temp;
ALTER FUNCTION refuse_revision() SET search_path = pg_catalog, public, pg_temp;
CREATE OR REPLACE FUNCTION number_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_current_xact_id();
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION refuse_second_state() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM public.decisions WHERE request_id = NEW.request_id AND current) THEN
        RAISE EXCEPTION 'request % is in a state already: supersede it first', NEW.request_id USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;

-- new_functions --
CREATE OR REPLACE FUNCTION refuse_command() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF (CASE current_user WHEN 'teller_api'     THEN NEW.verb IN ('settle', 'expire')
                          WHEN 'teller_worker'  THEN NEW.verb <> 'expire'
                          WHEN 'teller_courier' THEN NEW.verb <> 'settle'
                          ELSE false END) THEN
        RAISE EXCEPTION '% does not write the verb %', current_user, NEW.verb USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF current_user <> 'teller_api' THEN
        RETURN NULL;  -- here, since a kept plan of the conditions below needs the rights of the API
    END IF;
    IF NEW.verb IN ('confirm', 'approve', 'deny', 'replay')
       AND NOT EXISTS (SELECT FROM public.audit
                        WHERE request_id = NEW.request_id
                          AND action = NEW.verb
                          AND actor = NEW.payload ->> 'actor'
                          AND at > now() - interval '1 minute') THEN
        RAISE EXCEPTION 'the command % of request % has no line in the audit', NEW.verb, NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.verb = 'confirm'
       AND NOT EXISTS (SELECT FROM public.codes WHERE request_id = NEW.request_id AND used_at IS NOT NULL) THEN
        RAISE EXCEPTION 'request % was confirmed without its code', NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION refuse_reversal() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% of % is final', TG_NAME, TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;

-- own_commands --
DROP TRIGGER IF EXISTS own_commands ON inbox;
CREATE CONSTRAINT TRIGGER own_commands AFTER INSERT ON inbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.verb <> 'decide' OR current_user <> 'teller_api')
    EXECUTE FUNCTION refuse_command();

-- final_outcomes --
CREATE OR REPLACE TRIGGER outcome BEFORE UPDATE ON effects FOR EACH ROW
    WHEN ((OLD.outcome IN ('done', 'declined')
           AND (OLD.outcome, OLD.reference, OLD.reason, OLD.answered_at, OLD.due_at, OLD.token)
               IS DISTINCT FROM
               (NEW.outcome, NEW.reference, NEW.reason, NEW.answered_at, NEW.due_at, NEW.token))
          OR (OLD.voided_at IS NOT NULL
              AND (OLD.voided_at IS DISTINCT FROM NEW.voided_at OR NEW.due_at IS NOT NULL)))
    EXECUTE FUNCTION refuse_reversal();

-- final_revocations --
CREATE OR REPLACE TRIGGER revocation BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN (OLD.revoked_at IS NOT NULL AND OLD.revoked_at IS DISTINCT FROM NEW.revoked_at)
    EXECUTE FUNCTION refuse_reversal();

-- final_uses --
CREATE OR REPLACE TRIGGER use BEFORE UPDATE ON codes FOR EACH ROW
    WHEN (OLD.used_at IS NOT NULL AND OLD.used_at IS DISTINCT FROM NEW.used_at AND OLD.id = NEW.id)
    EXECUTE FUNCTION refuse_reversal();

-- rights --
REVOKE INSERT, UPDATE ON clients, api_keys, requests, inbox, pauses, audit, console_sessions, accounts, webhooks,
       sandbox_calls, sandbox_payouts, deliveries, resources, usages, partitions, effects, fanouts, workers, ownership,
       attempts, gateways, gateway_breakers, codes, code_turns, code_guesses, address_changes, bulk_actions, bulk_items,
       decisions, entries
  FROM teller_api, teller_worker, teller_courier;
GRANT INSERT (id) ON clients TO teller_api;
GRANT INSERT (id, client_id, name, role, digest, expires_at), UPDATE (revoked_at, last_used_at) ON api_keys TO teller_api;
GRANT INSERT (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account, amount,
              apply_before, refund_of, details, metadata) ON requests TO teller_api;
GRANT INSERT (partition, request_id, verb, leg, payload) ON inbox TO teller_api;
GRANT INSERT (partition, actor), DELETE ON pauses TO teller_api;
GRANT INSERT (actor, action, request_id, reason, detail) ON audit TO teller_api;
GRANT SELECT, INSERT (digest, key_id, expires_at), DELETE ON console_sessions TO teller_api;
GRANT INSERT (client_id, name), UPDATE (email, updated_at, protected_email, protected_until)
   ON accounts TO teller_api;
GRANT INSERT (id, client_id, url, events, secret), UPDATE (secret, previous_secret, previous_until), DELETE ON webhooks
   TO teller_api;
GRANT INSERT (request_id, status) ON sandbox_calls TO teller_api;
GRANT INSERT (request_id) ON sandbox_payouts TO teller_api;
GRANT UPDATE (status, due_at, tries) ON deliveries TO teller_api;
GRANT INSERT (partition, request_id, verb), DELETE ON inbox TO teller_worker;
GRANT INSERT ON decisions, resources, usages, entries TO teller_worker;
GRANT UPDATE (current) ON decisions TO teller_worker;
GRANT UPDATE (unit, client_id, available, held, version, overdraft, per_account_limit, starts_at, ends_at, gateway,
              confirm_above, approve_above, metadata, closed_at, digest, last_entry_at) ON resources TO teller_worker;
GRANT UPDATE (used, "limit") ON usages TO teller_worker;
GRANT UPDATE (sequence, drained_at, low_water, next_low_water, next_xid) ON partitions TO teller_worker;
GRANT INSERT (request_id, partition, gateway, client_id, created_at, due_at),
      UPDATE (due_at, tries, outcome, reason, voided_at) ON effects TO teller_worker;
GRANT INSERT (request_id, version, type, email) ON deliveries TO teller_worker;
GRANT INSERT (webhook_id, request_ids, versions) ON fanouts TO teller_worker;
GRANT INSERT (id, host, pid, alive_until), UPDATE (alive_until), DELETE ON workers TO teller_worker;
GRANT UPDATE (worker_id, since) ON ownership TO teller_worker;
GRANT INSERT (request_id, version, type, webhook_id),
      UPDATE (status, due_at, tries, token, last_status, last_error, delivered_at) ON deliveries TO teller_courier;
GRANT INSERT (partition, request_id, verb, leg) ON inbox TO teller_courier;
GRANT INSERT (request_id, leg, token), UPDATE (ended_at, status, outcome, error) ON attempts TO teller_courier;
GRANT INSERT (name), UPDATE (failures, open_until, probed) ON gateways TO teller_courier;
GRANT UPDATE (due_at, tries, token, leased_until, outcome, reference, reason, answered_at) ON effects TO teller_courier;
GRANT SELECT, INSERT (gateway, client_id, failures, is_open), UPDATE (failures, is_open) ON gateway_breakers
   TO teller_courier;
GRANT UPDATE (disabled_at, disabled_reason) ON webhooks TO teller_courier;
GRANT INSERT (id, client_id, destination, purpose, created_at, expires_at, has_turn, due_at),
      UPDATE (id, destination, created_at, expires_at, used_at, wrong, request_wrong, has_turn, due_at, tries, token)
   ON codes TO teller_api;
GRANT INSERT (destination, taken_at), UPDATE (taken_at) ON code_turns TO teller_api, teller_courier;
GRANT INSERT (client_id, destination, day, wrong), UPDATE (wrong) ON code_guesses TO teller_api;
GRANT SELECT, INSERT (id, client_id, destination, request_id, created_at, has_turn, due_at),
      UPDATE (id, destination, created_at, expires_at, used_at, wrong, has_turn, due_at, tries, token), DELETE
   ON codes TO teller_worker;
GRANT SELECT, UPDATE (has_turn, due_at, tries, token, expires_at) ON codes TO teller_courier;
GRANT INSERT (client_id, account, email, became) ON address_changes TO teller_api;
GRANT SELECT, UPDATE (due_at, tries, token), DELETE ON address_changes TO teller_courier;
GRANT SELECT, INSERT (id, action, reason, filter, actor, client_id, key_id),
      UPDATE (matched, done, sent, finished_at, stopped_by) ON bulk_actions TO teller_api;
GRANT SELECT, INSERT (action_id, place, request_id, version), UPDATE (outcome, problem, refund_id) ON bulk_items
   TO teller_api;
