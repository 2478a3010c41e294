-- Version 30: PostgreSQL refuses entries of an exchange without those of its other legs.
-- Batches of the version before write all legs in one statement, too.

CREATE FUNCTION refuse_half_exchange() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT
                 FROM public.legs AS l
                 LEFT JOIN public.entries AS e ON e.request_id = l.request_id
                                              AND e.leg = l.leg
                                              AND e.kind = CASE WHEN l.take IS NULL THEN 'credit' ELSE 'debit' END
                WHERE l.request_id = NEW.request_id
                  AND (e.resource_id = l.resource_id AND e.amount = coalesce(l.take, l.give)) IS NOT TRUE) THEN
        RAISE EXCEPTION 'request % has legs without their entries', NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER whole_exchange AFTER INSERT ON entries FOR EACH ROW WHEN (NEW.leg > 0 AND NEW.kind IN ('debit', 'credit'))
    EXECUTE FUNCTION refuse_half_exchange();
