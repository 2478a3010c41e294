-- Version 6.
--   1. For a time after an address was changed, codes go to the address before.
--   2. Wrong tries are counted for each request, too.

ALTER TABLE accounts ADD COLUMN protected_email text CHECK (length(protected_email) BETWEEN 3 AND 254),
                     ADD COLUMN protected_until timestamptz,
                     ADD CONSTRAINT accounts_protection CHECK ((protected_email IS NULL) = (protected_until IS NULL));
COMMENT ON COLUMN accounts.protected_email IS
    'The address before the changes of the last hours; codes go there until protected_until.';

ALTER TABLE codes ADD COLUMN request_wrong smallint NOT NULL DEFAULT 0 CHECK (request_wrong BETWEEN 0 AND 20);
COMMENT ON COLUMN codes.request_wrong IS
    'Wrong tries of all codes of this request. After 20 no code confirms it, and none is sent.';
