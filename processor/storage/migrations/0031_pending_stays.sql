-- Version 31: PostgreSQL refuses a courier that removes a notification before it is sent.
-- Couriers of the version before remove none.

CREATE TRIGGER pending_stays BEFORE DELETE ON deliveries FOR EACH ROW
    WHEN (current_user = 'teller_courier' AND old.status = 'pending') EXECUTE FUNCTION refuse_change();
