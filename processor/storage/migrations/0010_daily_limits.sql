-- Version 10: an optional limit for each account and day.

ALTER TABLE resources ADD COLUMN per_account_daily_limit bigint CHECK (per_account_daily_limit >= 1);
COMMENT ON COLUMN resources.per_account_daily_limit IS
    'The quantity that an account may take or hold within one day (UTC); NULL: no limit.';

CREATE TABLE daily_usages (
    resource_id text   NOT NULL,
    client_id   text   NOT NULL,
    account     text   NOT NULL,
    day         date   NOT NULL,
    used        bigint NOT NULL CHECK (used >= 0),
    "limit"     bigint NOT NULL,
    PRIMARY KEY (resource_id, client_id, account),
    CONSTRAINT daily_usages_never_above_the_limit CHECK (used <= "limit")
) WITH (fillfactor = 70);
COMMENT ON TABLE daily_usages IS
    'The quantity that an account has taken or held on one day, of a resource with a daily limit. A later day replaces it.';
COMMENT ON COLUMN daily_usages.day IS 'The day (UTC) of the account''s last debit or hold, or on which the limit was set.';
COMMENT ON COLUMN daily_usages."limit" IS
    'The limit when the account last took something. It is a copy, because a CHECK sees only its own row.';
GRANT SELECT ON daily_usages TO teller_api, teller_worker;
GRANT INSERT, UPDATE (day, used, "limit") ON daily_usages TO teller_worker;
GRANT UPDATE (per_account_daily_limit) ON resources TO teller_worker;
