-- Version 15: an index by mailbox, because all clients together have a limit of mails to one mailbox.
-- Couriers of the version before run on. They apply the limit of each client alone.

CREATE INDEX mail_counts_by_mailbox ON mail_counts (mailbox, hour) WHERE kind = 'request';
