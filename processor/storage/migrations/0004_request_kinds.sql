-- Version 4.
--   1. The table `request_kinds` has the facts about each kind of request that constraints and `verify` need.
--   2. A trigger of `requests` reads it, in place of two CHECKs with lists of kinds.
-- Statements of version 3 work during and after this migration. But its processes refuse a newer schema: `readyz` says
-- so, they do not start again, and an API whose intake loses its connection answers 503.

-- First, because it takes the strongest lock on `requests`: a stronger lock after a weaker one may deadlock.
ALTER TABLE requests DROP CONSTRAINT requests_kind_check, DROP CONSTRAINT requests_who_and_how_much;

CREATE TABLE request_kinds (
    kind             text    PRIMARY KEY,
    takes            boolean NOT NULL DEFAULT false,
    gives            boolean NOT NULL DEFAULT false,
    gives_back       boolean NOT NULL DEFAULT false,
    opens            boolean NOT NULL DEFAULT false,
    amends           boolean NOT NULL DEFAULT false,
    closes           boolean NOT NULL DEFAULT false,
    asks_gateway     boolean NOT NULL DEFAULT false,
    requires_account boolean NOT NULL DEFAULT false,
    least_amount     bigint
);
INSERT INTO request_kinds (kind, takes, asks_gateway, requires_account, least_amount) VALUES ('redemption', true, true, true, 1);
INSERT INTO request_kinds (kind, takes, asks_gateway, requires_account, least_amount) VALUES ('withdrawal', true, true, true, 1);
INSERT INTO request_kinds (kind, gives, least_amount) VALUES ('deposit', true, 1);
INSERT INTO request_kinds (kind) VALUES ('exchange');
INSERT INTO request_kinds (kind, takes, requires_account, least_amount) VALUES ('reservation', true, true, 1);
INSERT INTO request_kinds (kind, gives_back) VALUES ('refund', true);
INSERT INTO request_kinds (kind, gives, opens, least_amount) VALUES ('opening', true, true, 0);
INSERT INTO request_kinds (kind, amends) VALUES ('amendment', true);
INSERT INTO request_kinds (kind, closes) VALUES ('closing', true);
COMMENT ON TABLE request_kinds IS
    'The kinds of requests, for constraints and for verify. processor/domain/kinds.py has the same facts; a test compares the two.';
COMMENT ON COLUMN request_kinds.takes IS
    'A completed request has debited its amount, or held and captured it. A refund gives it back.';
COMMENT ON COLUMN request_kinds.gives IS 'A completed request has credited its amount.';
COMMENT ON COLUMN request_kinds.gives_back IS
    'A completed request has given back what the request in refund_of took. Requests without refund_of are refused.';
COMMENT ON COLUMN request_kinds.opens IS 'A completed request has created its resource, with the rules in its details.';
COMMENT ON COLUMN request_kinds.amends IS 'A completed request has changed the rules of its resource, as its details say.';
COMMENT ON COLUMN request_kinds.closes IS 'A completed request has closed its resource.';
COMMENT ON COLUMN request_kinds.asks_gateway IS 'A hold of such a request has an effect: its gateway is called.';
COMMENT ON COLUMN request_kinds.requires_account IS 'Requests without an account are refused.';
COMMENT ON COLUMN request_kinds.least_amount IS 'Requests with a smaller amount, or none, are refused; NULL: no amount is required.';
GRANT SELECT ON request_kinds TO teller_api;

-- By a trigger of the statement: a foreign key would look up and lock a row of request_kinds for every request.
CREATE FUNCTION refuse_wrong_kind() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    SELECT made.id, made.kind INTO wrong
      FROM made
      LEFT JOIN public.request_kinds AS k USING (kind)
     WHERE k.kind IS NULL
        OR (k.requires_account AND made.account IS NULL)
        OR (k.least_amount IS NOT NULL AND (made.amount IS NULL OR made.amount < k.least_amount))
        OR (k.gives_back AND made.refund_of IS NULL)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request % lacks what its kind requires, or there is no kind %', wrong.id, wrong.kind
              USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER of_a_kind AFTER INSERT ON requests REFERENCING NEW TABLE AS made FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_wrong_kind();
