-- Version 14: every process may see whether the numbers of the inbox lie behind the data.
-- Statements of the version before work during and after this migration.

GRANT SELECT ON SEQUENCE inbox_seq_seq TO teller_api, teller_worker, teller_courier;
