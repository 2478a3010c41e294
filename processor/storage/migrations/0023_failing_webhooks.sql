-- Version 23: a webhook that fails says since when, how often and why.
-- Couriers of the version before write nothing there, so their webhooks show no failures.

ALTER TABLE webhooks ADD COLUMN failing_since timestamptz;
ALTER TABLE webhooks ADD COLUMN failing_tries integer NOT NULL DEFAULT 0 CHECK (failing_tries >= 0);
ALTER TABLE webhooks ADD COLUMN failing_error text;
CREATE INDEX webhooks_failing ON webhooks (failing_since, id) WHERE failing_since IS NOT NULL;
COMMENT ON COLUMN webhooks.failing_since IS
    'The first try that failed since a delivery succeeded; NULL: the last try succeeded, or there was none.';
COMMENT ON COLUMN webhooks.failing_tries IS 'The tries that failed since then. failing_error is the error of the last one.';
GRANT UPDATE (disabled_at, disabled_reason, failing_since, failing_tries, failing_error) ON webhooks TO teller_courier;
