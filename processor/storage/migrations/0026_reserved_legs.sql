-- Version 26: reservations with legs, which are held and ended together.
-- Statements of the version before work during and after this migration. No reservation has legs yet.
-- Each statement takes one table, because batches lock several, in another order. All are repeatable.
-- transactional: no

-- kinds --
COMMENT ON COLUMN request_kinds.reserves IS
    'A request is held until a capture takes all or a part of it for good, or it is given back. It may have legs, which take, in place of an amount.';
CREATE OR REPLACE FUNCTION refuse_wrong_kind() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    SELECT made.id, made.kind INTO wrong
      FROM made
      LEFT JOIN public.request_kinds AS k USING (kind)
     WHERE k.kind IS NULL
        OR (k.requires_account AND made.account IS NULL)
        OR (k.least_amount IS NOT NULL AND (made.amount IS NULL OR made.amount < k.least_amount)
            AND NOT (k.reserves AND coalesce(made.details ? 'legs', false)))
        OR (k.gives_back AND made.refund_of IS NULL)
        OR (k.requires_legs AND NOT coalesce(made.details ? 'legs', false))
        OR (made.details ? 'legs' AND NOT (k.requires_legs OR k.reserves OR k.gives_back))
        OR (k.reserves AND jsonb_path_exists(made.details, '$.legs[*].give'))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request % lacks what its kind requires, or there is no kind %', wrong.id, wrong.kind
              USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

-- partitions --
ALTER TABLE reservations ADD COLUMN IF NOT EXISTS partitions smallint[];
COMMENT ON COLUMN reservations.partitions IS
    'The partitions of all legs, of a reservation with legs: they end in one transaction, with all of their locks.';
ALTER TABLE reservations DROP CONSTRAINT IF EXISTS reservations_home;
ALTER TABLE reservations ADD CONSTRAINT reservations_home CHECK (partition = ANY(partitions));
ALTER TABLE reservations DROP CONSTRAINT IF EXISTS reservations_whole;
ALTER TABLE reservations ADD CONSTRAINT reservations_whole CHECK (amount IS NULL OR partitions IS NULL);
GRANT INSERT (partitions) ON reservations TO teller_worker;

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
                    OR present.captured IS DISTINCT FROM CASE WHEN OLD.partitions IS NULL THEN taken END
               WHEN present.status = 'refunded' THEN taken > 0
               WHEN present.code = 'released' THEN OLD.command IS DISTINCT FROM 'release' OR taken > 0
               WHEN present.code = 'reservation_expired'
               THEN OLD.command IS NOT NULL OR OLD.expires_at > clock_timestamp() OR taken > 0
               ELSE true END)
       OR (OLD.partitions IS NOT NULL
           AND EXISTS (SELECT FROM public.legs l
                         LEFT JOIN public.entries e ON e.request_id = l.request_id AND e.leg = l.leg
                                                   AND e.kind IN ('capture', 'release')
                        WHERE l.request_id = OLD.request_id
                          AND e.amount IS DISTINCT FROM l.take)) THEN
        RAISE EXCEPTION 'request % ended as %, with the command %, % captured and % released of %', OLD.request_id,
              coalesce(present.code, present.status, 'undecided'), coalesce(OLD.command, 'none'), taken, back, OLD.held
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END $$;
CREATE OR REPLACE FUNCTION refuse_half_hold() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    is_open boolean := EXISTS (SELECT FROM public.reservations
                                WHERE request_id = NEW.request_id AND partitions IS NOT NULL);
BEGIN
    IF EXISTS (SELECT FROM (SELECT l.take,
                                   sum(e.amount) FILTER (WHERE e.kind = 'hold') AS held,
                                   sum(e.amount) FILTER (WHERE e.kind <> 'hold') AS ended
                              FROM public.legs l
                              LEFT JOIN public.entries e ON e.request_id = l.request_id AND e.leg = l.leg
                                                        AND e.kind IN ('hold', 'capture', 'release')
                             WHERE l.request_id = NEW.request_id
                             GROUP BY l.leg, l.take) AS each
                WHERE held IS DISTINCT FROM take
                   OR ended IS DISTINCT FROM CASE WHEN is_open THEN NULL ELSE take END) THEN
        RAISE EXCEPTION 'the legs of request % are not held or ended together', NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

-- held_together --
DROP TRIGGER IF EXISTS whole_hold ON reservations;
CREATE CONSTRAINT TRIGGER whole_hold AFTER INSERT ON reservations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.partitions IS NOT NULL) EXECUTE FUNCTION refuse_half_hold();

-- ended_together --
DROP TRIGGER IF EXISTS whole_hold ON entries;
CREATE CONSTRAINT TRIGGER whole_hold AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.leg > 0 AND NEW.kind IN ('hold', 'capture', 'release')) EXECUTE FUNCTION refuse_half_hold();
