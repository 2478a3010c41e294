-- Version 11.
--   1. Mails, codes and notices have indexes by client: the courier sends for the clients in turn.
--   2. `mail_counts`: each mailbox has a limit of mails in an hour.
--   3. Notices about quick changes of an address are limited.
-- Couriers of version 10 run on. They find the oldest rows by sorting those that are due.
-- Each statement is repeatable.
-- transactional: no

-- accounts --
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS email_since timestamptz,
                     ADD COLUMN IF NOT EXISTS quick_since timestamptz,
                     ADD COLUMN IF NOT EXISTS quick_changes integer NOT NULL DEFAULT 0 CHECK (quick_changes >= 0);

-- notices --
ALTER TABLE address_changes ADD COLUMN IF NOT EXISTS stood_since timestamptz NOT NULL DEFAULT '-infinity';

-- mails --
ALTER TABLE deliveries ADD COLUMN IF NOT EXISTS client_id text NOT NULL DEFAULT '-';

-- due_mails --
UPDATE deliveries d
   SET client_id = r.client_id
  FROM requests r
 WHERE d.webhook_id IS NULL
   AND d.due_at IS NOT NULL
   AND d.client_id = '-'
   AND r.id = d.request_id;

-- drop_mails --
DROP INDEX CONCURRENTLY IF EXISTS deliveries_mails;

-- build_mails --
CREATE INDEX CONCURRENTLY deliveries_mails ON deliveries (client_id, due_at)
 WHERE webhook_id IS NULL AND due_at IS NOT NULL;

-- drop_longest --
DROP INDEX CONCURRENTLY IF EXISTS address_changes_longest;

-- build_longest --
CREATE INDEX CONCURRENTLY address_changes_longest ON address_changes (client_id, stood_since);

-- drop_notices --
DROP INDEX CONCURRENTLY IF EXISTS address_changes_due;

-- build_notices --
CREATE INDEX CONCURRENTLY address_changes_due ON address_changes (client_id, due_at);

-- drop_codes --
DROP INDEX CONCURRENTLY IF EXISTS codes_due;

-- build_codes --
CREATE INDEX CONCURRENTLY codes_due ON codes (client_id, due_at) WHERE has_turn AND due_at IS NOT NULL;

-- drop_waiting --
DROP INDEX CONCURRENTLY IF EXISTS codes_waiting;

-- build_waiting --
CREATE INDEX CONCURRENTLY codes_waiting ON codes (client_id, destination, due_at) WHERE NOT has_turn AND due_at IS NOT NULL;

-- counts --
CREATE TABLE IF NOT EXISTS mail_counts (
    client_id text        NOT NULL,
    kind      text        NOT NULL CHECK (kind IN ('request', 'notice')),
    mailbox   text        NOT NULL,
    hour      timestamptz NOT NULL,
    mails     integer     NOT NULL CHECK (mails >= 0),
    PRIMARY KEY (client_id, kind, mailbox)
) WITH (fillfactor = 70);

-- counts_by_hour --
CREATE INDEX IF NOT EXISTS mail_counts_by_hour ON mail_counts (hour);

-- rights --
DO $$
BEGIN
    GRANT INSERT (stood_since) ON address_changes TO teller_api;
    GRANT UPDATE (email_since, quick_since, quick_changes) ON accounts TO teller_api;
    GRANT INSERT (client_id) ON deliveries TO teller_worker;
    GRANT SELECT, INSERT (client_id, kind, mailbox, hour, mails), UPDATE (hour, mails), DELETE ON mail_counts TO teller_courier;
    COMMENT ON COLUMN accounts.email_since IS 'The time at which the address was set; NULL: by a release that did not write it.';
    COMMENT ON COLUMN accounts.quick_since IS
        'The first change of an hour after which the address before had stood only briefly; quick_changes counts such changes.';
    COMMENT ON COLUMN address_changes.stood_since IS
        'The time at which the old address had been set. Notices to addresses that stood longest are sent first.';
    COMMENT ON TABLE mail_counts IS
        'The mails of each client to each mailbox in the last hour in which it had any. Couriers delete the rows of hours before.';
    COMMENT ON COLUMN mail_counts.mailbox IS 'The address in small letters; empty: all notices of the client.';
    COMMENT ON COLUMN deliveries.client_id IS
        'For an e-mail, the client of the request: clients take turns. A dash: a webhook, or a release that did not write it.';
END $$;
