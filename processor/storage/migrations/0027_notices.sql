-- Version 27.
--   1. An index of notices by mailbox, because all clients together have a limit of notices to one mailbox.
--   2. `gateways.failures` goes. No courier since version 7 reads or writes it.
-- Couriers of the version before run on. They apply the limit of each client alone.

CREATE INDEX mail_counts_of_notices ON mail_counts (mailbox, hour) WHERE kind = 'notice';

ALTER TABLE gateways DROP COLUMN failures;
