-- Version 19: reservations.
--   1. Their open holds have a table, and a capture or release that was accepted is final.
--   2. A decision has the quantity that was captured.
-- Each statement takes one table, because batches lock several, in another order. All are repeatable.
-- transactional: no

-- kinds --
ALTER TABLE request_kinds ADD COLUMN IF NOT EXISTS reserves boolean NOT NULL DEFAULT false;
UPDATE request_kinds SET reserves = true WHERE kind = 'reservation';
COMMENT ON COLUMN request_kinds.reserves IS
    'A request is held until a capture takes all or a part of it for good, or it is given back.';

-- captured --
ALTER TABLE decisions ADD COLUMN IF NOT EXISTS captured bigint;
COMMENT ON COLUMN decisions.captured IS
    'The quantity that a capture took of the hold of a reservation; NULL: nothing, or another kind.';

-- guarded --
CREATE OR REPLACE TRIGGER only_supersede BEFORE UPDATE ON decisions FOR EACH ROW
    WHEN (NOT OLD.current OR NEW.current
          OR (OLD.request_id, OLD.version, OLD.status, OLD.stage, OLD.code, OLD.reason, OLD.reference, OLD.refunded,
              OLD.sequence, OLD.decided_at, OLD.at, OLD.actor, OLD.detail, OLD.trace, OLD.leg, OLD.captured)
             IS DISTINCT FROM
             (NEW.request_id, NEW.version, NEW.status, NEW.stage, NEW.code, NEW.reason, NEW.reference, NEW.refunded,
              NEW.sequence, NEW.decided_at, NEW.at, NEW.actor, NEW.detail, NEW.trace, NEW.leg, NEW.captured))
    EXECUTE FUNCTION refuse_revision();

-- reservations --
CREATE TABLE IF NOT EXISTS reservations (
    request_id  uuid        PRIMARY KEY,
    partition   smallint    NOT NULL,
    expires_at  timestamptz NOT NULL,
    held        bigint      NOT NULL CHECK (held >= 1),
    command     text        CHECK (command IN ('capture', 'release')),
    accepted_at timestamptz,
    amount      bigint      CHECK (amount >= 1),
    CONSTRAINT reservations_command CHECK ((command IS NULL) = (accepted_at IS NULL)),
    CONSTRAINT reservations_amount  CHECK (amount IS NULL OR (command IS NOT NULL AND command = 'capture' AND amount <= held))
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS reservations_expiring ON reservations (expires_at) WHERE command IS NULL;
COMMENT ON TABLE reservations IS
    'The open holds of reservations. A batch writes a row with the hold, and deletes it with the end of the hold.';
COMMENT ON COLUMN reservations.command IS
    'The first capture or release that the API accepted, before expires_at. The hold ends by it and not by its expiry, however late it is decided.';
COMMENT ON COLUMN reservations.amount IS 'The quantity to capture; NULL: all that is held.';
GRANT SELECT ON reservations TO teller_api, teller_worker, teller_courier;
GRANT UPDATE (command, accepted_at, amount) ON reservations TO teller_api;
GRANT INSERT (request_id, partition, expires_at, held), UPDATE (request_id), DELETE ON reservations TO teller_worker;

-- commands --
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
    IF NEW.verb IN ('capture', 'release')
       AND NOT EXISTS (SELECT FROM public.reservations WHERE request_id = NEW.request_id AND command = NEW.verb) THEN
        RAISE EXCEPTION 'the command % of request % was not accepted', NEW.verb, NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.verb = 'confirm'
       AND NOT EXISTS (SELECT FROM public.codes WHERE request_id = NEW.request_id AND used_at IS NOT NULL) THEN
        RAISE EXCEPTION 'request % was confirmed without its code', NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
-- final_commands --
CREATE OR REPLACE TRIGGER command BEFORE UPDATE ON reservations FOR EACH ROW
    WHEN (OLD.command IS NOT NULL OR OLD.expires_at <= statement_timestamp())
    EXECUTE FUNCTION refuse_reversal();

-- ends --
CREATE OR REPLACE FUNCTION refuse_wrong_end() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    present record;
    taken   bigint;
    back    bigint;
BEGIN
    SELECT status, code, captured INTO present FROM public.decisions WHERE request_id = OLD.request_id AND current;
    SELECT coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0),
           coalesce(sum(amount) FILTER (WHERE kind = 'release'), 0)
      INTO taken, back
      FROM public.entries
     WHERE request_id = OLD.request_id;
    IF taken + back <> OLD.held
       OR (CASE WHEN present.status = 'completed'
               THEN OLD.command IS DISTINCT FROM 'capture' OR taken <> coalesce(OLD.amount, OLD.held)
                    OR present.captured IS DISTINCT FROM taken
               WHEN present.status = 'refunded' THEN taken > 0
               WHEN present.code = 'released' THEN OLD.command IS DISTINCT FROM 'release' OR taken > 0
               WHEN present.code = 'reservation_expired'
               THEN OLD.command IS NOT NULL OR OLD.expires_at > clock_timestamp() OR taken > 0
               ELSE true END) THEN
        RAISE EXCEPTION 'request % ended as %, with the command %, % captured and % released of %', OLD.request_id,
              coalesce(present.code, present.status, 'undecided'), coalesce(OLD.command, 'none'), taken, back, OLD.held
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END $$;
CREATE OR REPLACE TRIGGER right_end BEFORE DELETE ON reservations FOR EACH ROW EXECUTE FUNCTION refuse_wrong_end();
