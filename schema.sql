-- Teller: the database.
--
-- PostgreSQL holds the order and the truth. This file describes the whole schema as it is now.
--   requests, legs      the requests, as they were accepted
--   inbox               the work that each partition has still to do
--   decisions           the states of each request
--   resources, usages, daily_usages   the present quantities
--   entries             the ledger that explains every quantity
--   archives, checkpoints   the files that finished requests have left for, and the states from which the ledger goes on
-- `teller migrate` applies this file to an empty database, in one transaction. It fills in :partitions, which never
-- changes afterwards, and :schema_version. An older database is brought to the same schema by the files in
-- processor/storage/migrations; a test compares both results.
--
-- The rules live in processor/domain/rules. The constraints here are a safety net: they refuse states that the rules
-- must never produce.

-- ---------------------------------------------------------------- the installation

CREATE TABLE installation (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    schema_version integer     NOT NULL,
    partitions     smallint    NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    id             uuid        NOT NULL DEFAULT gen_random_uuid(),
    made_in        text
);
COMMENT ON TABLE installation IS
    'One row: the version of this schema, and the number of partitions that resources are spread over.';
COMMENT ON COLUMN installation.id IS 'The names in Redis carry it, so installations can share a Redis.';
COMMENT ON COLUMN installation.made_in IS
    'The cluster and database that the id was made for. `teller migrate` gives a copy elsewhere another id.';

-- ---------------------------------------------------------------- clients and keys

CREATE TABLE clients (
    id         text        PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128 AND id !~ '[^A-Za-z0-9._:~@-]'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX clients_newest ON clients (created_at DESC, id);
COMMENT ON TABLE clients IS
    'A party that owns requests, accounts and keys. The account u_42 of one client is not the account u_42 of another.';

CREATE TABLE api_keys (
    id         uuid        PRIMARY KEY,
    client_id  text        NOT NULL REFERENCES clients,
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    role       text        NOT NULL CHECK (role IN ('client', 'operator', 'admin')),
    digest     bytea       NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_keys_of_client ON api_keys (client_id, id);
CREATE INDEX api_keys_of_role   ON api_keys (role, id);
CREATE INDEX api_keys_expiring  ON api_keys (id) WHERE revoked_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX api_keys_revoked   ON api_keys (id) WHERE revoked_at IS NOT NULL;
COMMENT ON TABLE api_keys IS 'Bearer keys. A key has 256 random bits, and only its SHA-256 is stored.';
COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of the whole key as it is sent.';
COMMENT ON COLUMN api_keys.expires_at IS 'The key stops working at this time; NULL: it works until it is revoked.';
COMMENT ON COLUMN api_keys.last_used_at IS 'Precise to one minute: it is written at most once a minute.';

CREATE TABLE console_sessions (
    digest     bytea       PRIMARY KEY CHECK (length(digest) = 32),
    key_id     uuid        NOT NULL REFERENCES api_keys,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX console_sessions_over ON console_sessions (expires_at);
CREATE INDEX console_sessions_of_key ON console_sessions (key_id);
COMMENT ON TABLE console_sessions IS
    'Signed-in sessions of the console. A session ends with its key, at expires_at, or when its row is deleted.';
COMMENT ON COLUMN console_sessions.digest IS 'SHA-256 of the token in the cookie, which has 256 random bits.';

-- ---------------------------------------------------------------- kinds of requests

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
    least_amount     bigint,
    requires_legs    boolean NOT NULL DEFAULT false,
    reserves         boolean NOT NULL DEFAULT false
);
INSERT INTO request_kinds (kind, takes, asks_gateway, requires_account, least_amount) VALUES ('redemption', true, true, true, 1);
INSERT INTO request_kinds (kind, takes, asks_gateway, requires_account, least_amount) VALUES ('withdrawal', true, true, true, 1);
INSERT INTO request_kinds (kind, gives, least_amount) VALUES ('deposit', true, 1);
INSERT INTO request_kinds (kind, requires_account, requires_legs) VALUES ('exchange', true, true);
INSERT INTO request_kinds (kind, takes, reserves, requires_account, least_amount) VALUES ('reservation', true, true, true, 1);
INSERT INTO request_kinds (kind, gives_back) VALUES ('refund', true);
INSERT INTO request_kinds (kind, gives, opens, least_amount) VALUES ('opening', true, true, 0);
INSERT INTO request_kinds (kind, amends) VALUES ('amendment', true);
INSERT INTO request_kinds (kind, closes) VALUES ('closing', true);
COMMENT ON TABLE request_kinds IS
    'The kinds of requests, for constraints and for verify. processor/domain/kinds.py has the same facts; a test compares the two.';
COMMENT ON COLUMN request_kinds.takes IS
    'A completed request has debited its amount, or held and captured it. A refund gives it back.';
COMMENT ON COLUMN request_kinds.reserves IS
    'A request is held until a capture takes all or a part of it for good, or it is given back. It may have legs, which take, in place of an amount.';
COMMENT ON COLUMN request_kinds.gives IS 'A completed request has credited its amount.';
COMMENT ON COLUMN request_kinds.gives_back IS
    'A completed request has given back what the request in refund_of took. Requests without refund_of are refused.';
COMMENT ON COLUMN request_kinds.opens IS 'A completed request has created its resource, with the rules in its details.';
COMMENT ON COLUMN request_kinds.amends IS 'A completed request has changed the rules of its resource, as its details say.';
COMMENT ON COLUMN request_kinds.closes IS 'A completed request has closed its resource.';
COMMENT ON COLUMN request_kinds.asks_gateway IS 'A hold of such a request has an effect: its gateway is called.';
COMMENT ON COLUMN request_kinds.requires_account IS 'Requests without an account are refused.';
COMMENT ON COLUMN request_kinds.least_amount IS 'Requests with a smaller amount, or none, are refused; NULL: no amount is required.';
COMMENT ON COLUMN request_kinds.requires_legs IS 'Requests without legs are refused. Each leg takes from a resource, or gives to one.';

-- ---------------------------------------------------------------- requests

CREATE TABLE requests (
    id              uuid        PRIMARY KEY,
    client_id       text        NOT NULL,
    created_by      uuid        NOT NULL,
    idempotency_key text        NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    fingerprint     bytea       NOT NULL CHECK (length(fingerprint) = 32),
    kind            text        NOT NULL,
    partition       smallint    NOT NULL CHECK (partition >= 0),
    resource_id     text        NOT NULL CHECK (length(resource_id) BETWEEN 1 AND 128 AND resource_id !~ '[^A-Za-z0-9._:~@-]'),
    account         text        CHECK (length(account) BETWEEN 1 AND 128 AND account !~ '[^A-Za-z0-9._:~@-]'),
    amount          bigint      CHECK (amount BETWEEN 0 AND 9007199254740991),
    apply_before    timestamptz CHECK (apply_before BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 23:59:59.999999+00'),
    refund_of       uuid,
    details         jsonb       CHECK (jsonb_typeof(details) = 'object'),
    metadata        jsonb       CHECK (jsonb_typeof(metadata) = 'object'),
    created_at      timestamptz NOT NULL DEFAULT now(),
    x_request_id    text        CHECK (length(x_request_id) BETWEEN 1 AND 128 AND x_request_id !~ '[^A-Za-z0-9._:@/+=-]'),
    traceparent     text        CHECK (length(traceparent) = 55 AND traceparent !~ '[^0-9a-f-]'),
    CONSTRAINT requests_idempotency UNIQUE (client_id, idempotency_key)
);
CREATE INDEX requests_of_client   ON requests (client_id, id);
CREATE INDEX requests_of_account  ON requests (client_id, account, id) WHERE account IS NOT NULL;
CREATE INDEX requests_of_resource ON requests (resource_id, id);
CREATE INDEX requests_refunds     ON requests (refund_of, id) WHERE refund_of IS NOT NULL;
-- The kinds that open or amend: the rules of a resource at a time in the past.
CREATE INDEX requests_of_rules    ON requests (resource_id, id) WHERE kind IN ('opening', 'amendment');
-- By a trigger of the statement: a foreign key would look up and lock a row of request_kinds for every request.
-- docs/decisions/0023-kinds.md has the measurement.
CREATE FUNCTION refuse_wrong_kind() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    SELECT made.id, made.kind INTO wrong
      FROM made
      LEFT JOIN public.request_kinds AS k USING (kind)
     WHERE k.kind IS NULL
        OR (k.requires_account AND made.account IS NULL)
        OR (k.least_amount IS NOT NULL AND (made.amount IS NULL OR made.amount < k.least_amount)
            AND NOT (k.reserves AND coalesce(made.details ? 'legs', false)))
        OR (k.gives_back AND made.refund_of IS NULL)
        OR (k.requires_legs AND NOT coalesce(made.details ? 'legs', false))
        OR (made.details ? 'legs' AND NOT (k.requires_legs OR k.reserves OR k.gives_back))
        OR (k.reserves AND jsonb_path_exists(made.details, '$.legs[*].give'))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request % lacks what its kind requires, or there is no kind %', wrong.id, wrong.kind
              USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER of_a_kind AFTER INSERT ON requests REFERENCING NEW TABLE AS made FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_wrong_kind();
COMMENT ON TABLE requests IS
    'Every accepted request, word for word. The API writes it once, together with its inbox row; it never changes.';
COMMENT ON COLUMN requests.partition IS
    'The partition of the first resource. Only this partition writes decisions of this request.';
COMMENT ON COLUMN requests.fingerprint IS
    'SHA-256 over the kind and the canonical parsed body, without defaults. It separates a repeated request from another request with the same key.';
COMMENT ON COLUMN requests.amount IS
    'Whole units of the resource (money: minor units). For an opening, the quantity that the resource begins with.';
COMMENT ON COLUMN requests.details IS
    'Fields that only this kind has: the rules of an opening or amendment, the destination of a withdrawal, the legs of an exchange.';
COMMENT ON COLUMN requests.x_request_id IS 'The header X-Request-Id of the call that made it; NULL: no call made it.';
COMMENT ON COLUMN requests.traceparent IS 'The header traceparent of that call, in version 00 of W3C Trace Context; NULL: it had none.';

-- ---------------------------------------------------------------- legs

CREATE TABLE legs (
    request_id  uuid     NOT NULL,
    leg         smallint NOT NULL CHECK (leg BETWEEN 0 AND 9),
    resource_id text     NOT NULL CHECK (length(resource_id) BETWEEN 1 AND 128 AND resource_id !~ '[^A-Za-z0-9._:~@-]'),
    partition   smallint NOT NULL,
    take        bigint   CHECK (take BETWEEN 1 AND 9007199254740991),
    give        bigint   CHECK (give BETWEEN 1 AND 9007199254740991),
    PRIMARY KEY (request_id, leg),
    CONSTRAINT legs_one_for_each_resource UNIQUE (request_id, resource_id),
    CONSTRAINT legs_one_way CHECK (num_nonnulls(take, give) = 1)
);
CREATE INDEX legs_of_resource ON legs (resource_id, request_id);
COMMENT ON TABLE legs IS
    'The resources of requests that have several, as `legs` of their details says. Only a trigger writes it, with its request.';
COMMENT ON COLUMN legs.leg IS 'The place of the leg, from 0. Entries and inbox rows have the same number.';
COMMENT ON COLUMN legs.take IS 'The quantity that is taken or held; NULL: the leg gives.';

-- The partition of a resource, as processor/domain/partitioning.py computes it. The number of 64 bits is computed in two
-- halves, because bigint has a sign.
CREATE FUNCTION home_partition(resource text, partitions bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN mod(mod(('x' || substr(encode(sha256(convert_to(resource, 'UTF8')), 'hex'), 1, 8))::bit(32)::bigint, partitions)
           * mod(4294967296, partitions)
           + ('x' || substr(encode(sha256(convert_to(resource, 'UTF8')), 'hex'), 9, 8))::bit(32)::bigint, partitions);

-- This function, like queue_legs below, runs as the owner: no role may write a leg, or the number of an inbox row. No role
-- may attach it to a table of its own either.
CREATE FUNCTION place_legs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    placed integer;
BEGIN
    INSERT INTO legs (request_id, leg, resource_id, partition, take, give)
    SELECT NEW.id, sent.place - 1, sent.leg ->> 'resource', home_partition(sent.leg ->> 'resource', i.partitions),
           (sent.leg ->> 'take')::bigint, (sent.leg ->> 'give')::bigint
      FROM installation i, jsonb_array_elements(NEW.details -> 'legs') WITH ORDINALITY AS sent(leg, place);
    GET DIAGNOSTICS placed = ROW_COUNT;
    IF placed < 2 OR NEW.amount IS NOT NULL
       OR NOT EXISTS (SELECT FROM legs WHERE request_id = NEW.id AND leg = 0
                                         AND resource_id = NEW.resource_id AND partition = NEW.partition) THEN
        RAISE EXCEPTION 'request % has legs of another form', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION place_legs() FROM PUBLIC;
CREATE TRIGGER with_legs AFTER INSERT ON requests FOR EACH ROW WHEN (NEW.details ? 'legs')
    EXECUTE FUNCTION place_legs();

-- ---------------------------------------------------------------- the inbox

CREATE TABLE inbox (
    seq        bigint      GENERATED ALWAYS AS IDENTITY,
    partition  smallint    NOT NULL,
    request_id uuid        NOT NULL,
    verb       text        NOT NULL CHECK (verb IN ('decide', 'cancel', 'settle', 'replay', 'expire', 'confirm',
                                                    'approve', 'deny', 'capture', 'release')),
    leg        smallint    NOT NULL DEFAULT 0 CHECK (leg >= 0),
    payload    jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (partition, seq),
    CONSTRAINT inbox_once UNIQUE (request_id, verb, leg)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000);
CREATE INDEX inbox_cancels ON inbox (partition, request_id) WHERE verb = 'cancel';
-- Rows become visible in the order of commits, not of seq. The low-water mark of a partition (below) is sound because
-- this trigger assigns the transaction id before any row of the statement gets its seq.
CREATE FUNCTION number_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_current_xact_id();
    RETURN NULL;
END $$;
CREATE TRIGGER numbered_first BEFORE INSERT ON inbox FOR EACH STATEMENT EXECUTE FUNCTION number_transaction();
-- A request with legs has a row in the partition of each leg, and all have one seq. So all partitions have them in one
-- order, and no two requests wait for each other. The rows beside the one in the home partition are written at the commit.
-- A cancel or a denial moves nothing, and no gateway is asked about legs, so these need none.
CREATE FUNCTION queue_legs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    request uuid;
    command text;
BEGIN
    IF TG_TABLE_NAME = 'requests' THEN
        request := NEW.id;
        command := 'decide';
    ELSE
        request := NEW.request_id;
        command := NEW.verb;
    END IF;
    INSERT INTO inbox (seq, partition, request_id, verb, leg, payload)
    OVERRIDING SYSTEM VALUE
    SELECT home.seq, other.partition, request, home.verb, other.leg, home.payload
      FROM inbox home
     CROSS JOIN (SELECT partition, min(leg) AS leg FROM legs WHERE request_id = request GROUP BY partition) AS other
     WHERE home.request_id = request
       AND home.verb = command
       AND home.leg = 0
       AND other.partition <> home.partition;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION queue_legs() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER queued_with_legs AFTER INSERT ON requests DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.details ? 'legs') EXECUTE FUNCTION queue_legs();
CREATE CONSTRAINT TRIGGER queued_with_legs AFTER INSERT ON inbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.leg = 0 AND NEW.verb NOT IN ('decide', 'settle', 'cancel', 'deny')) EXECUTE FUNCTION queue_legs();
COMMENT ON COLUMN inbox.leg IS
    '0 for the row in the home partition of the request. A row of a later leg only holds its place in the partition of that leg.';
COMMENT ON TABLE inbox IS
    'The work that each partition has still to do, in the order of seq. The batch that applies a row deletes it in the same transaction.';

-- ---------------------------------------------------------------- decisions

CREATE TABLE decisions (
    request_id uuid        NOT NULL,
    version    integer     NOT NULL CHECK (version >= 2),
    current    boolean     NOT NULL DEFAULT true,
    status     text        NOT NULL,
    stage      text,
    code       text,
    reason     text,
    reference  text,
    refunded   bigint      NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    sequence   bigint      NOT NULL CHECK (sequence >= 1),
    decided_at timestamptz NOT NULL,
    at         timestamptz NOT NULL,
    actor      text        NOT NULL,
    detail     text,
    trace      text,
    leg        smallint    CHECK (leg BETWEEN 0 AND 9),
    captured   bigint,
    PRIMARY KEY (request_id, version),
    CONSTRAINT decisions_status CHECK (
        CASE status WHEN 'processing' THEN stage IS NOT NULL AND stage IN ('awaiting_confirmation', 'awaiting_approval', 'queued', 'held', 'settling')
                    WHEN 'completed'  THEN stage IS NULL AND code IS NULL
                    WHEN 'rejected'   THEN stage IS NULL AND code IS NOT NULL
                    WHEN 'refunded'   THEN stage IS NULL AND code IS NOT NULL
                    WHEN 'cancelled'  THEN stage IS NULL AND code IS NOT NULL
                    WHEN 'failed'     THEN stage IS NULL AND code IS NOT NULL
                    ELSE false END)
);
CREATE UNIQUE INDEX decisions_open ON decisions (status, request_id)
    WHERE current AND status NOT IN ('completed', 'rejected');
CREATE INDEX decisions_failed ON decisions (at, request_id) INCLUDE (code) WHERE current AND status = 'failed';
CREATE INDEX decisions_awaiting_approval ON decisions (request_id) WHERE current AND stage = 'awaiting_approval';
CREATE INDEX decisions_paid_after_refund ON decisions (request_id) WHERE detail = 'paid_after_refund';
COMMENT ON TABLE decisions IS
    'The states of each request, one row for each. Version 1 is the acceptance (requests), so the first row here is version 2.';
COMMENT ON COLUMN decisions.current IS
    'Whether this is the present state. It becomes false once, when the next version is written.';
COMMENT ON COLUMN decisions.sequence IS
    'The number of the decision within its partition, without gaps. Later versions of the request keep it.';
COMMENT ON COLUMN decisions.leg IS 'The leg that the code is about, of a request with legs.';
COMMENT ON COLUMN decisions.reference IS 'The gateway''s own reference for the effect.';
COMMENT ON COLUMN decisions.captured IS
    'The quantity that a capture took of the hold of a reservation; NULL: nothing, or another kind.';
COMMENT ON COLUMN decisions.detail IS 'A description of the change, for people.';
COMMENT ON COLUMN decisions.trace IS 'The traceback of a fault, for admins. Clients never see it.';

-- ---------------------------------------------------------------- resources

CREATE TABLE resources (
    id                text        PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128 AND id !~ '[^A-Za-z0-9._:~@-]'),
    kind              text        NOT NULL CHECK (kind IN ('balance', 'points', 'stock', 'coupon', 'seat', 'pool')),
    unit              text,
    client_id         text,
    partition         smallint    NOT NULL,
    available         bigint      NOT NULL CHECK (available <= 9007199254740991),
    held              bigint      NOT NULL DEFAULT 0 CHECK (held BETWEEN 0 AND 9007199254740991),
    version           bigint      NOT NULL DEFAULT 0 CHECK (version >= 0),
    overdraft         bigint      NOT NULL DEFAULT 0 CHECK (overdraft BETWEEN 0 AND 9007199254740991),
    per_account_limit bigint      CHECK (per_account_limit >= 1),
    starts_at         timestamptz CHECK (starts_at BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 23:59:59.999999+00'),
    ends_at           timestamptz CHECK (ends_at BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 23:59:59.999999+00'),
    gateway           text,
    confirm_above     bigint      CHECK (confirm_above >= 0),
    approve_above     bigint      CHECK (approve_above >= 0),
    metadata          jsonb,
    created_at        timestamptz NOT NULL,
    closed_at         timestamptz,
    digest            bytea       NOT NULL CHECK (length(digest) = 32),
    last_entry_at     timestamptz,
    per_account_daily_limit bigint CHECK (per_account_daily_limit >= 1),
    decimals          smallint    NOT NULL DEFAULT 0 CHECK (decimals BETWEEN 0 AND 9),
    CONSTRAINT resources_never_below_the_overdraft CHECK (available >= -overdraft),
    CONSTRAINT resources_entry_time CHECK ((version = 0) = (last_entry_at IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX resources_newest ON resources (created_at DESC, id DESC);
CREATE INDEX resources_of_kind ON resources (kind, created_at DESC, id DESC);
CREATE INDEX resources_of_client ON resources (client_id, kind, created_at DESC, id DESC);
CREATE INDEX resources_by_prefix ON resources (id text_pattern_ops);
COMMENT ON TABLE resources IS
    'A limited thing: an available quantity, a held quantity, and rules. Only a batch of its partition writes it.';
COMMENT ON COLUMN resources.version IS 'The number of its entries.';
COMMENT ON COLUMN resources.digest IS 'The digest of its last entry; 32 zero bytes for a resource without entries.';
COMMENT ON COLUMN resources.client_id IS 'The only client that the resource exists for; NULL: all clients.';
COMMENT ON COLUMN resources.per_account_daily_limit IS
    'The quantity that an account may take or hold within one day (UTC); NULL: no limit.';
COMMENT ON COLUMN resources.decimals IS
    'How many digits of an amount stand behind the point where people read it. It is fixed at the opening.';

CREATE TABLE usages (
    resource_id text   NOT NULL,
    client_id   text   NOT NULL,
    account     text   NOT NULL,
    used        bigint NOT NULL CHECK (used >= 0),
    "limit"     bigint NOT NULL,
    PRIMARY KEY (resource_id, client_id, account),
    CONSTRAINT usages_never_above_the_limit CHECK (used <= "limit")
) WITH (fillfactor = 70);
COMMENT ON TABLE usages IS 'The quantity that an account has taken or holds of a resource with a per-account limit.';
COMMENT ON COLUMN usages."limit" IS
    'The limit when the account last took something. It is a copy, because a CHECK sees only its own row.';

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

-- ---------------------------------------------------------------- the ledger

CREATE TABLE entries (
    resource_id text        NOT NULL,
    version     bigint      NOT NULL CHECK (version >= 1),
    kind        text        NOT NULL CHECK (kind IN ('hold', 'capture', 'release', 'debit', 'credit')),
    request_id  uuid        NOT NULL,
    leg         smallint    NOT NULL DEFAULT 0,
    account     text,
    amount      bigint      NOT NULL CHECK (amount >= 1),
    available   bigint      NOT NULL,
    held        bigint      NOT NULL CHECK (held >= 0),
    created_at  timestamptz NOT NULL,
    digest      bytea       NOT NULL CHECK (length(digest) = 32),
    PRIMARY KEY (resource_id, version)
);
-- The rest of a hold of which a part was captured is released as leg -1. right_end (below) holds that both are the hold.
CREATE UNIQUE INDEX entries_once ON entries
    (request_id, leg, (CASE kind WHEN 'capture' THEN 'end' WHEN 'release' THEN 'end' ELSE kind END));
COMMENT ON TABLE entries IS
    'The ledger. Entries never change; the sum of a resource''s entries is its state, at every version.';
COMMENT ON COLUMN entries.available IS 'The available quantity after this entry; held is the held quantity after it.';
COMMENT ON COLUMN entries.created_at IS
    'The later of two times: the clock after the partition was locked, and the entry before. It never runs backwards.';
COMMENT ON COLUMN entries.digest IS
    'SHA-256 over the digest before it and this entry. A change of one entry breaks every digest after it.';
COMMENT ON INDEX entries_once IS
    'A request takes, holds and gives at most once for each leg. A hold ends once, by capture or by release.';

-- ---------------------------------------------------------------- the holds of reservations

CREATE TABLE reservations (
    request_id  uuid        PRIMARY KEY,
    partition   smallint    NOT NULL,
    expires_at  timestamptz NOT NULL,
    held        bigint      NOT NULL CHECK (held >= 1),
    command     text        CHECK (command IN ('capture', 'release')),
    accepted_at timestamptz,
    amount      bigint      CHECK (amount >= 1),
    partitions  smallint[],
    CONSTRAINT reservations_home    CHECK (partition = ANY(partitions)),
    CONSTRAINT reservations_whole   CHECK (amount IS NULL OR partitions IS NULL),
    CONSTRAINT reservations_command CHECK ((command IS NULL) = (accepted_at IS NULL)),
    CONSTRAINT reservations_amount  CHECK (amount IS NULL OR (command IS NOT NULL AND command = 'capture' AND amount <= held))
) WITH (fillfactor = 70);
CREATE INDEX reservations_expiring ON reservations (expires_at) WHERE command IS NULL;
COMMENT ON TABLE reservations IS
    'The open holds of reservations. A batch writes a row with the hold, and deletes it with the end of the hold.';
COMMENT ON COLUMN reservations.command IS
    'The first capture or release that the API accepted, before expires_at. The hold ends by it and not by its expiry, however late it is decided.';
COMMENT ON COLUMN reservations.amount IS 'The quantity to capture; NULL: all that is held.';
COMMENT ON COLUMN reservations.partitions IS
    'The partitions of all legs, of a reservation with legs: they end in one transaction, with all of their locks.';

-- ---------------------------------------------------------------- gateways and their effects

CREATE TABLE effects (
    request_id   uuid        NOT NULL,
    leg          smallint    NOT NULL DEFAULT 0,
    partition    smallint    NOT NULL,
    gateway      text        NOT NULL,
    created_at   timestamptz NOT NULL,
    due_at       timestamptz,
    tries        integer     NOT NULL DEFAULT 0 CHECK (tries >= 0),
    token        uuid,
    leased_until timestamptz,
    outcome      text        CHECK (outcome IN ('done', 'declined', 'misconfigured', 'unknown')),
    reference    text,
    reason       text,
    answered_at  timestamptz,
    voided_at    timestamptz,
    client_id    text        NOT NULL DEFAULT '',
    PRIMARY KEY (request_id, leg),
    CONSTRAINT effects_lease CHECK ((token IS NULL) = (leased_until IS NULL))
) WITH (fillfactor = 60);
CREATE INDEX effects_due    ON effects (gateway, client_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX effects_leased ON effects (gateway, leased_until) WHERE leased_until IS NOT NULL;
COMMENT ON TABLE effects IS
    'The act that a gateway performs for a request with a hold. A batch creates it, a courier calls the gateway, a batch settles it.';
COMMENT ON COLUMN effects.due_at IS 'The time of the next call; NULL: no call is due.';
COMMENT ON COLUMN effects.client_id IS
    'The client of the request: clients take turns. Rows of a release that did not write it have an empty text.';
COMMENT ON COLUMN effects.tries IS 'Calls since the effect was created or last replayed.';
COMMENT ON COLUMN effects.leased_until IS 'The latest end of the call in flight that has this token.';
COMMENT ON COLUMN effects.outcome IS
    'The first definite answer (done, declined) is final; misconfigured and unknown mean that there was none.';
COMMENT ON COLUMN effects.voided_at IS
    'A refund released the hold at this time, so no further call is made. A payment reported after it raises an alert.';

CREATE TABLE attempts (
    request_id uuid        NOT NULL,
    leg        smallint    NOT NULL DEFAULT 0,
    token      uuid        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    status     smallint,
    outcome    text        CHECK (outcome IN ('done', 'declined', 'misconfigured', 'unknown')),
    error      text,
    PRIMARY KEY (request_id, leg, token)
);
COMMENT ON TABLE attempts IS
    'Calls of gateways. Each row is committed before its call, so no call is made without a row.';

CREATE TABLE gateways (
    name       text        PRIMARY KEY,
    open_until timestamptz,
    probed     text
) WITH (fillfactor = 50);
COMMENT ON TABLE gateways IS
    'The probes of each gateway. A lock on its row lets one courier at a time claim effects.';
COMMENT ON COLUMN gateways.open_until IS
    'Clients whose breaker is open have no call before this time; NULL: no breaker is open.';
COMMENT ON COLUMN gateways.probed IS 'The client that had the last probe. The next probe is one of the client behind it.';

CREATE TABLE gateway_breakers (
    gateway   text    NOT NULL,
    client_id text    NOT NULL,
    failures  integer NOT NULL CHECK (failures >= 0),
    is_open   boolean NOT NULL,
    PRIMARY KEY (gateway, client_id)
) WITH (fillfactor = 50);
CREATE INDEX gateway_breakers_unanswered ON gateway_breakers (gateway, client_id) WHERE failures >= 3;
COMMENT ON TABLE gateway_breakers IS
    'The circuit breaker of each client at each gateway. A client without a row has had no unknown outcome.';
COMMENT ON COLUMN gateway_breakers.failures IS 'Unknown outcomes in a row.';
COMMENT ON COLUMN gateway_breakers.is_open IS
    'Clients with an open breaker at the gateway have one call at a time together.';

-- ---------------------------------------------------------------- notifications

CREATE TABLE accounts (
    client_id  text        NOT NULL,
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 128 AND name !~ '[^A-Za-z0-9._:~@-]'),
    email      text        CHECK (length(email) BETWEEN 3 AND 254),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    protected_email text   CHECK (length(protected_email) BETWEEN 3 AND 254),
    protected_until timestamptz,
    email_since timestamptz,
    quick_since timestamptz,
    quick_changes integer  NOT NULL DEFAULT 0 CHECK (quick_changes >= 0),
    PRIMARY KEY (client_id, name),
    CONSTRAINT accounts_protection CHECK ((protected_email IS NULL) = (protected_until IS NULL))
);
COMMENT ON TABLE accounts IS 'The e-mail address of each account that has one.';
COMMENT ON COLUMN accounts.email_since IS 'The time at which the address was set; NULL: by a release that did not write it.';
COMMENT ON COLUMN accounts.quick_since IS
    'The first change of an hour after which the address before had stood only briefly; quick_changes counts such changes.';
COMMENT ON COLUMN accounts.protected_email IS
    'The address before the changes of the last hours; codes go there until protected_until.';

CREATE TABLE address_changes (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    client_id  text        NOT NULL,
    account    text        NOT NULL,
    email      text        NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    became     text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at     timestamptz NOT NULL DEFAULT now(),
    tries      integer     NOT NULL DEFAULT 0 CHECK (tries >= 0),
    token      uuid,
    stood_since timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 80);
CREATE INDEX address_changes_due     ON address_changes (client_id, due_at);
CREATE INDEX address_changes_longest ON address_changes (client_id, stood_since);
COMMENT ON TABLE address_changes IS
    'Old addresses that must still be notified of a change. The row is written with the change, and deleted when its mail was sent or given up.';
COMMENT ON COLUMN address_changes.email IS 'The old address, which receives the mail.';
COMMENT ON COLUMN address_changes.became IS 'The new address, masked; NULL: the address was removed.';
COMMENT ON COLUMN address_changes.stood_since IS
    'The time at which the old address had been set. Notices to addresses that stood longest are sent first.';
COMMENT ON COLUMN address_changes.due_at IS 'The time of the next try. A claim moves it beyond the lease.';

CREATE TABLE mail_counts (
    client_id text        NOT NULL,
    kind      text        NOT NULL CHECK (kind IN ('request', 'notice')),
    mailbox   text        NOT NULL,
    hour      timestamptz NOT NULL,
    mails     integer     NOT NULL CHECK (mails >= 0),
    PRIMARY KEY (client_id, kind, mailbox)
) WITH (fillfactor = 70);
CREATE INDEX mail_counts_by_hour ON mail_counts (hour);
CREATE INDEX mail_counts_by_mailbox ON mail_counts (mailbox, hour) WHERE kind = 'request';
CREATE INDEX mail_counts_of_notices ON mail_counts (mailbox, hour) WHERE kind = 'notice';
COMMENT ON TABLE mail_counts IS
    'The mails of each client to each mailbox in the last hour in which it had any. Couriers delete the rows of hours before.';
COMMENT ON COLUMN mail_counts.mailbox IS 'The address in small letters; empty: all notices of the client.';

CREATE TABLE webhooks (
    id              uuid        PRIMARY KEY,
    client_id       text        NOT NULL,
    url             text        NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
    events          text[],
    secret          bytea       NOT NULL CHECK (length(secret) BETWEEN 24 AND 64),
    previous_secret bytea       CHECK (length(previous_secret) BETWEEN 24 AND 64),
    previous_until  timestamptz,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at     timestamptz,
    disabled_reason text,
    failing_since   timestamptz,
    failing_tries   integer     NOT NULL DEFAULT 0 CHECK (failing_tries >= 0),
    failing_error   text
);
CREATE INDEX webhooks_of_client ON webhooks (client_id, id);
CREATE INDEX webhooks_newest ON webhooks (created_at DESC, id DESC);
CREATE INDEX webhooks_newest_of_client ON webhooks (client_id, created_at DESC, id DESC);
CREATE INDEX webhooks_disabled ON webhooks (id) WHERE disabled_at IS NOT NULL;
CREATE INDEX webhooks_failing ON webhooks (failing_since, id) WHERE failing_since IS NOT NULL;
COMMENT ON TABLE webhooks IS 'The addresses that receive a client''s events.';
COMMENT ON COLUMN webhooks.events IS 'The event types that are sent; NULL: all.';
COMMENT ON COLUMN webhooks.previous_secret IS
    'A second signature with this secret is sent until previous_until, while the receiver changes over.';
COMMENT ON COLUMN webhooks.failing_since IS
    'The first try that failed since a delivery succeeded; NULL: the last try succeeded, or there was none.';
COMMENT ON COLUMN webhooks.failing_tries IS 'The tries that failed since then. failing_error is the error of the last one.';

CREATE TABLE deliveries (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id   uuid        NOT NULL,
    version      integer     NOT NULL,
    type         text        NOT NULL,
    webhook_id   uuid,
    email        text,
    status       text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    due_at       timestamptz DEFAULT now(),
    tries        integer     NOT NULL DEFAULT 0 CHECK (tries >= 0),
    token        uuid,
    last_status  smallint,
    last_error   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    client_id    text        NOT NULL DEFAULT '-',
    CONSTRAINT deliveries_one_way CHECK ((webhook_id IS NULL) <> (email IS NULL)),
    CONSTRAINT deliveries_due     CHECK ((status = 'pending') = (due_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX deliveries_due        ON deliveries (webhook_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_mails      ON deliveries (client_id, due_at) WHERE webhook_id IS NULL AND due_at IS NOT NULL;
CREATE INDEX deliveries_of_request ON deliveries (request_id, id);
CREATE INDEX deliveries_of_webhook ON deliveries (webhook_id, status, id) WHERE webhook_id IS NOT NULL;
COMMENT ON TABLE deliveries IS
    'Notifications, pending and sent. A row is written with the change it reports; its payload is the decision of that version, which never changes.';
COMMENT ON COLUMN deliveries.due_at IS
    'The time of the next try. A claim moves it beyond the lease, so a courier that dies loses nothing.';
COMMENT ON COLUMN deliveries.client_id IS
    'For an e-mail, the client of the request: clients take turns. A dash: a webhook, or a release that did not write it.';
COMMENT ON COLUMN deliveries.token IS 'The claim in progress. Only its holder may write the result.';

CREATE TABLE fanouts (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id  uuid        NOT NULL,
    request_ids uuid[]      NOT NULL CHECK (cardinality(request_ids) >= 1),
    versions    integer[]   NOT NULL,
    CONSTRAINT fanouts_pairs CHECK (cardinality(request_ids) = cardinality(versions))
);
CREATE INDEX fanouts_of_webhook ON fanouts (webhook_id, id);
COMMENT ON TABLE fanouts IS
    'All notifications of one batch for one webhook, in one row, which costs the batch little. A courier expands it into deliveries.';

CREATE TABLE sandbox_calls (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id uuid        NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    status     smallint    NOT NULL
);
CREATE INDEX sandbox_calls_of_request ON sandbox_calls (request_id);
CREATE TABLE sandbox_payouts (
    request_id uuid        PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE sandbox_calls IS 'Calls that the sandbox gateway received.';
COMMENT ON TABLE sandbox_payouts IS 'Payouts that the sandbox gateway made, at most one for each idempotency key.';

-- ---------------------------------------------------------------- one-time codes

CREATE TABLE codes (
    id          uuid        PRIMARY KEY,
    client_id   text        NOT NULL,
    destination text        NOT NULL CHECK (length(destination) BETWEEN 3 AND 254),
    purpose     text        NOT NULL DEFAULT '' CHECK (length(purpose) <= 128),
    request_id  uuid,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz,
    used_at     timestamptz,
    wrong       smallint    NOT NULL DEFAULT 0 CHECK (wrong BETWEEN 0 AND 5),
    has_turn    boolean     NOT NULL,
    due_at      timestamptz,
    tries       integer     NOT NULL DEFAULT 0 CHECK (tries >= 0),
    token       uuid,
    request_wrong smallint   NOT NULL DEFAULT 0 CHECK (request_wrong BETWEEN 0 AND 20),
    CONSTRAINT codes_lifetime CHECK (request_id IS NOT NULL OR expires_at IS NOT NULL)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX codes_of_destination ON codes (client_id, destination, purpose) WHERE request_id IS NULL;
CREATE UNIQUE INDEX codes_of_request ON codes (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX codes_due   ON codes (client_id, due_at) WHERE has_turn AND due_at IS NOT NULL;
CREATE INDEX codes_waiting ON codes (client_id, destination, due_at) WHERE NOT has_turn AND due_at IS NOT NULL;
CREATE INDEX codes_lapse ON codes (expires_at) WHERE request_id IS NOT NULL AND used_at IS NULL AND due_at IS NULL;
COMMENT ON TABLE codes IS
    'The last one-time code for each client, destination and purpose, and for each request that waits for one. The digits are not stored: they are an HMAC over id.';
COMMENT ON COLUMN codes.id IS
    'Random, and new for each code. The digits can be computed from it only with TELLER_SECRET.';
COMMENT ON COLUMN codes.request_id IS 'The only request that this code confirms.';
COMMENT ON COLUMN codes.expires_at IS
    'The end of the code''s lifetime. For a code of a request it is counted from the sending, and NULL before.';
COMMENT ON COLUMN codes.wrong IS 'Wrong tries. After 5 the code is invalid.';
COMMENT ON COLUMN codes.request_wrong IS
    'Wrong tries of all codes of this request. After 20 no code confirms it, and none is sent.';
COMMENT ON COLUMN codes.has_turn IS
    'Whether the code may be sent now; otherwise it waits for the cooldown of its destination.';
COMMENT ON COLUMN codes.due_at IS
    'The time of the next try to send; NULL: it was sent, or never will be. A claim moves it beyond the lease.';

CREATE TABLE code_turns (
    destination text        PRIMARY KEY,
    taken_at    timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE code_turns IS
    'The time at which a code was last allowed for a destination, for all clients together. A lock on the row orders senders.';

CREATE TABLE code_guesses (
    client_id   text     NOT NULL,
    destination text     NOT NULL,
    day         date     NOT NULL,
    wrong       smallint NOT NULL CHECK (wrong BETWEEN 0 AND 20),
    PRIMARY KEY (client_id, destination, day)
) WITH (fillfactor = 50);
COMMENT ON TABLE code_guesses IS
    'Wrong tries of a client at a destination in a day (UTC). After 20 the destination is locked until the day ends.';

-- ---------------------------------------------------------------- the race lab

CREATE TABLE lab_things (
    id         uuid        PRIMARY KEY,
    quantity   bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE lab_approvals (
    thing_id    uuid    NOT NULL,
    user_number integer NOT NULL
);
CREATE INDEX lab_approvals_of_thing ON lab_approvals (thing_id);
ALTER TABLE lab_approvals REPLICA IDENTITY FULL;
CREATE TABLE lab_results (
    id         uuid        PRIMARY KEY,
    document   jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX lab_results_latest ON lab_results (created_at, id);
COMMENT ON TABLE lab_things IS
    'The objects that the race lab''s users compete for. They have no CHECK and no foreign key, on purpose: races must be possible.';
COMMENT ON TABLE lab_approvals IS 'Users who got an object. Rows are deleted when their race ends.';
COMMENT ON TABLE lab_results IS 'The latest runs that the lab''s page shows, with the steps of each user.';

-- ---------------------------------------------------------------- partitions and their workers

CREATE TABLE partitions (
    id         smallint    PRIMARY KEY,
    sequence   bigint      NOT NULL DEFAULT 0,
    drained_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    low_water  bigint      NOT NULL DEFAULT 0,
    next_low_water bigint  NOT NULL DEFAULT 0,
    next_xid   bigint      NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
COMMENT ON TABLE partitions IS 'One row for each partition. Only batches of the partition write it.';
COMMENT ON COLUMN partitions.sequence IS 'The number of the last decision.';
COMMENT ON COLUMN partitions.drained_at IS
    'The time of the last batch. The sweep looks for work that had no batch for too long.';
COMMENT ON COLUMN partitions.low_water IS
    'The low-water mark: this partition has no inbox row with a seq at or below it, and none will appear. Queries begin above it, to skip dead rows.';
COMMENT ON COLUMN partitions.next_low_water IS
    'The next low-water mark. It is valid when all transactions below next_xid have ended; until then one of them may commit a lower seq.';

CREATE TABLE pauses (
    partition smallint    PRIMARY KEY,
    since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor     text        NOT NULL
);
COMMENT ON TABLE pauses IS
    'Partitions that accept requests but do not decide. It is a table of its own because batches lock partitions.';

CREATE TABLE workers (
    id          uuid        PRIMARY KEY,
    host        text        NOT NULL,
    pid         integer     NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    alive_until timestamptz NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE workers IS 'The heartbeat of each worker process, by the clock of the database.';

CREATE TABLE ownership (
    partition smallint    PRIMARY KEY,
    worker_id uuid,
    since     timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 20);
COMMENT ON TABLE ownership IS
    'The worker that consumes the doorbells of each partition. Only speed depends on it: the lock of the partition decides correctness.';

CREATE TABLE alarms (
    code      text        NOT NULL CHECK (code IN ('locked', 'misplaced', 'redis')),
    partition smallint,
    detail    text        NOT NULL,
    seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT alarms_last UNIQUE NULLS NOT DISTINCT (code, partition)
);
ALTER TABLE alarms REPLICA IDENTITY FULL;
COMMENT ON TABLE alarms IS
    'The last time that a worker saw something wrong: a lock held against it, work in a wrong partition, a Redis that is no use.';
COMMENT ON COLUMN alarms.partition IS 'The partition that is concerned; NULL: none, or all.';
COMMENT ON COLUMN alarms.detail IS 'A description for people.';

-- ---------------------------------------------------------------- the audit

CREATE TABLE audit (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text        NOT NULL,
    action     text        NOT NULL,
    request_id uuid,
    reason     text,
    detail     jsonb
);
CREATE INDEX audit_by_time    ON audit (at, id);
CREATE INDEX audit_of_actor   ON audit (actor, at, id);
CREATE INDEX audit_of_action  ON audit (action, at, id);
CREATE INDEX audit_of_request ON audit (request_id, at, id) WHERE request_id IS NOT NULL;
COMMENT ON TABLE audit IS
    'Acts of people: actor, action, time and reason. Requests themselves are not repeated here. Append-only.';

-- ---------------------------------------------------------------- bulk actions

CREATE TABLE bulk_actions (
    id          uuid        PRIMARY KEY,
    action      text        NOT NULL CHECK (action IN ('replay', 'refund')),
    reason      text        NOT NULL,
    filter      jsonb       NOT NULL CHECK (jsonb_typeof(filter) = 'object'),
    actor       text        NOT NULL,
    client_id   text        NOT NULL,
    key_id      uuid        NOT NULL,
    matched     integer     NOT NULL DEFAULT 0 CHECK (matched >= 0),
    done        integer     NOT NULL DEFAULT 0,
    sent        integer     NOT NULL DEFAULT 0 CHECK (sent >= 0),
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    stopped_by  text,
    CONSTRAINT bulk_actions_progress CHECK (done BETWEEN 0 AND matched AND sent <= done)
);
CREATE INDEX bulk_actions_newest ON bulk_actions (started_at, id);
CREATE TABLE bulk_items (
    action_id  uuid    NOT NULL,
    place      integer NOT NULL CHECK (place >= 1),
    request_id uuid    NOT NULL,
    version    integer NOT NULL,
    outcome    text    CHECK (outcome IN ('sent', 'skipped', 'refused')),
    problem    text,
    refund_id  uuid,
    PRIMARY KEY (action_id, place)
);
COMMENT ON TABLE bulk_actions IS
    'Failed requests that were replayed or refunded together, and the progress. The work is done in parts, each in one transaction.';
COMMENT ON COLUMN bulk_actions.filter IS
    'The filter of the action, for people to read. The requests themselves are in bulk_items.';
COMMENT ON COLUMN bulk_actions.done IS
    'The place of the last item that was processed; sent counts those that were replayed or refunded.';
COMMENT ON COLUMN bulk_actions.finished_at IS
    'The time after which nothing more happens: all items are done, or stopped_by stopped the action.';
COMMENT ON TABLE bulk_items IS
    'The requests of a bulk action, as they were when it began, in the order in which they are processed.';
COMMENT ON COLUMN bulk_items.version IS
    'The version in which the request had failed. A later version comes from this action or from another one.';

-- ---------------------------------------------------------------- the archive

CREATE TABLE archives (
    number     integer     PRIMARY KEY CHECK (number >= 1),
    name       text        NOT NULL UNIQUE,
    digest     bytea       NOT NULL CHECK (length(digest) = 32),
    before     timestamptz NOT NULL,
    requests   integer     NOT NULL CHECK (requests >= 1),
    entries    integer     NOT NULL CHECK (entries >= 0),
    first_id   uuid        NOT NULL,
    last_id    uuid        NOT NULL,
    clients    text[]      NOT NULL,
    ids        bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT archives_ids CHECK (length(ids) = 18 * requests)
);
-- Uncompressed, so that a search reads a few pieces and not the whole value.
ALTER TABLE archives ALTER ids SET STORAGE EXTERNAL;
CREATE INDEX archives_ranges ON archives (last_id, first_id);
COMMENT ON TABLE archives IS
    'The files that requests have left for. A row is written in the transaction that removes the requests of its file.';
COMMENT ON COLUMN archives.digest IS 'SHA-256 of the file.';
COMMENT ON COLUMN archives.before IS 'The requests were finished before this time.';
COMMENT ON COLUMN archives.ids IS
    '18 bytes for each request, in the order of ids: the id, and the place of its client in clients, from 0.';

-- The file that a request has left for, and its client. No row: it is in no file.
CREATE FUNCTION archived_in(request uuid) RETURNS TABLE (name text, client_id text) LANGUAGE sql STABLE
    SET search_path = pg_catalog, public, pg_temp AS $$
WITH RECURSIVE halves(number, low, high) AS (
    SELECT number, 0, requests - 1 FROM public.archives WHERE first_id <= request AND last_id >= request
    UNION ALL
    SELECT number, CASE WHEN is_below THEN middle + 1 ELSE low END, CASE WHEN is_below THEN high ELSE middle END
      FROM (SELECT h.number, h.low, h.high, (h.low + h.high) / 2 AS middle,
                   (SELECT substring(a.ids FROM (h.low + h.high) / 2 * 18 + 1 FOR 16)
                      FROM public.archives AS a
                     WHERE a.number = h.number) < uuid_send(request) AS is_below
              FROM halves AS h
             WHERE h.low < h.high) AS halved
)
SELECT a.name, a.clients[get_byte(substring(a.ids FROM h.low * 18 + 17 FOR 2), 0) * 256
                         + get_byte(substring(a.ids FROM h.low * 18 + 17 FOR 2), 1) + 1]
  FROM halves AS h
  JOIN public.archives AS a USING (number)
 WHERE h.low >= h.high
   AND substring(a.ids FROM h.low * 18 + 1 FOR 16) = uuid_send(request)
 LIMIT 1
$$;

CREATE TABLE checkpoints (
    resource_id text        NOT NULL,
    version     bigint      NOT NULL CHECK (version >= 1),
    available   bigint      NOT NULL,
    held        bigint      NOT NULL CHECK (held >= 0),
    created_at  timestamptz NOT NULL,
    digest      bytea       NOT NULL CHECK (length(digest) = 32),
    PRIMARY KEY (resource_id, version)
);
COMMENT ON TABLE checkpoints IS
    'The last entry of each unbroken run of entries that has left: the state from which the entries that stay go on.';

CREATE TABLE archived_usages (
    resource_id text    NOT NULL,
    client_id   text    NOT NULL,
    account     text    NOT NULL,
    used        numeric NOT NULL,
    day         date,
    day_used    numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (resource_id, client_id, account),
    CONSTRAINT archived_usages_day CHECK ((day IS NULL) = (day_used = 0))
) WITH (fillfactor = 70);
COMMENT ON TABLE archived_usages IS
    'The quantity that an account has taken by entries that have left. A limit that is set later counts it.';
COMMENT ON COLUMN archived_usages.day IS
    'The last day (UTC) on which such an entry took something, and day_used the quantity of that day.';

CREATE TABLE archived_decisions (
    partition smallint PRIMARY KEY,
    decisions bigint   NOT NULL CHECK (decisions >= 1),
    sequences numeric  NOT NULL,
    last      bigint   NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE archived_decisions IS
    'For each partition, the decisions that have left: how many, the sum of their numbers, and the greatest of them.';

-- ---------------------------------------------------------------- history is append-only

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;

-- Requests leave by the role teller_archive alone, after their file is on the disk (removal, below). It has no right to
-- update, so only DELETE passes. The owner has to take that role first.
CREATE TRIGGER append_only  BEFORE UPDATE OR DELETE ON entries  FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only  BEFORE UPDATE OR DELETE ON requests FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON requests FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only  BEFORE UPDATE OR DELETE ON legs     FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON legs FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only  BEFORE UPDATE OR DELETE ON audit    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_deleted BEFORE DELETE ON decisions FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON decisions FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- A courier removes old notifications, and none that is still to be sent.
CREATE TRIGGER pending_stays BEFORE DELETE ON deliveries FOR EACH ROW
    WHEN (current_user = 'teller_courier' AND old.status = 'pending') EXECUTE FUNCTION refuse_change();

-- The statements of a removal come in this order: requests, then what belongs to them. A request leaves if it is finished,
-- nothing waits for it, and no refund of it stays. Openings, amendments and closings explain their resource, and stay.
CREATE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    wrong uuid;
BEGIN
    SELECT gone.id INTO wrong
      FROM gone
      JOIN public.request_kinds AS k ON k.kind = gone.kind
      LEFT JOIN LATERAL (SELECT status FROM public.decisions AS d WHERE d.request_id = gone.id AND d.current LIMIT 1) AS d
             ON true
     WHERE k.opens OR k.amends OR k.closes
        OR (d.status IN ('completed', 'rejected', 'refunded', 'cancelled')) IS NOT TRUE
        OR EXISTS (SELECT FROM public.inbox AS i WHERE i.request_id = gone.id)
        OR EXISTS (SELECT FROM public.requests AS r WHERE r.refund_of = gone.id)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request % is not to be removed', wrong USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER removal AFTER DELETE ON requests REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_removal();
CREATE FUNCTION refuse_orphaning() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    wrong uuid;
BEGIN
    SELECT gone.request_id INTO wrong
      FROM gone
     WHERE EXISTS (SELECT FROM public.requests AS r WHERE r.id = gone.request_id)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% of request % stay as long as the request', TG_TABLE_NAME, wrong
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER removal AFTER DELETE ON decisions REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_orphaning();
CREATE TRIGGER removal AFTER DELETE ON legs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_orphaning();
CREATE TRIGGER removal AFTER DELETE ON effects REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_orphaning();
-- Each run of entries that leaves has its checkpoint already.
CREATE FUNCTION refuse_broken_chain() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    wrong record;
BEGIN
    SELECT gone.resource_id, gone.version INTO wrong
      FROM gone
      LEFT JOIN gone AS next ON next.resource_id = gone.resource_id AND next.version = gone.version + 1
     WHERE next.version IS NULL
       AND NOT EXISTS (SELECT FROM public.checkpoints AS c
                        WHERE c.resource_id = gone.resource_id
                          AND c.version >= gone.version
                          AND (c.version > gone.version
                               OR (c.available, c.held, c.created_at, c.digest)
                                  = (gone.available, gone.held, gone.created_at, gone.digest))
                          AND NOT EXISTS (SELECT FROM public.entries AS e
                                           WHERE e.resource_id = gone.resource_id
                                             AND e.version > gone.version
                                             AND e.version <= c.version))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry %/% has no checkpoint', wrong.resource_id, wrong.version
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT gone.resource_id, gone.version INTO wrong
      FROM gone
     WHERE EXISTS (SELECT FROM public.requests AS r WHERE r.id = gone.request_id)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry %/% stays as long as its request', wrong.resource_id, wrong.version
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER removal AFTER DELETE ON entries REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_broken_chain();

CREATE FUNCTION refuse_revision() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'decisions can only be superseded, never changed' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER only_supersede BEFORE UPDATE ON decisions FOR EACH ROW
    WHEN (NOT OLD.current OR NEW.current
          OR (OLD.request_id, OLD.version, OLD.status, OLD.stage, OLD.code, OLD.reason, OLD.reference, OLD.refunded,
              OLD.sequence, OLD.decided_at, OLD.at, OLD.actor, OLD.detail, OLD.trace, OLD.leg, OLD.captured)
             IS DISTINCT FROM
             (NEW.request_id, NEW.version, NEW.status, NEW.stage, NEW.code, NEW.reason, NEW.reference, NEW.refunded,
              NEW.sequence, NEW.decided_at, NEW.at, NEW.actor, NEW.detail, NEW.trace, NEW.leg, NEW.captured))
    EXECUTE FUNCTION refuse_revision();

-- One statement writes the entries of all legs of an exchange or of its refund, so one transaction does. The trigger does not
-- fire for requests with a single resource. `teller verify` finds an exchange of which only the first leg was written.
-- Its plan is kept for the whole session, so a plan that suits only a small table must not be chosen.
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

-- A trigger, because an index would slow down every first state (version 2), which the primary key makes unique already.
-- Its plan is kept for the whole session, so a plan that suits only a small table must not be chosen.
CREATE FUNCTION refuse_second_state() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM public.decisions WHERE request_id = NEW.request_id AND current) THEN
        RAISE EXCEPTION 'request % is in a state already: supersede it first', NEW.request_id USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER one_current BEFORE INSERT ON decisions FOR EACH ROW WHEN (NEW.current AND NEW.version > 2)
    EXECUTE FUNCTION refuse_second_state();

-- ---------------------------------------------------------------- a role that was taken over must not pay

-- Functions find tables in `public`, and none in pg_temp. Those of the hot path name the schema of each table instead of
-- setting a search path, which would cost more than they do.

-- Each role writes its own verbs: the API those of people, a worker `expire`, a courier `settle`. A person's command
-- leaves a line in the audit, and a confirmation uses a code, in the transaction of the command. The check is made at
-- the commit, so their order does not matter. A line of the last minute counts, because the clock may be set back.
-- The condition spares new requests the call of the function. The owner writes all.
CREATE FUNCTION refuse_command() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF (CASE current_user WHEN 'teller_api'     THEN NEW.verb IN ('settle', 'expire')
                          WHEN 'teller_worker'  THEN NEW.verb <> 'expire'
                          WHEN 'teller_courier' THEN NEW.verb <> 'settle'
                          ELSE false END) THEN
        RAISE EXCEPTION '% does not write the verb %', current_user, NEW.verb USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF current_user <> 'teller_api' THEN
        RETURN NULL;  -- here, since a kept plan of the conditions below needs the rights of the API
    END IF;
    IF NEW.verb IN ('confirm', 'approve', 'deny', 'replay')
       AND NOT EXISTS (SELECT FROM public.audit
                        WHERE request_id = NEW.request_id
                          AND action = NEW.verb
                          AND actor = NEW.payload ->> 'actor'
                          AND at > now() - interval '1 minute') THEN
        RAISE EXCEPTION 'the command % of request % has no line in the audit', NEW.verb, NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.verb IN ('capture', 'release')
       AND NOT EXISTS (SELECT FROM public.reservations WHERE request_id = NEW.request_id AND command = NEW.verb) THEN
        RAISE EXCEPTION 'the command % of request % was not accepted', NEW.verb, NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.verb = 'confirm'
       AND NOT EXISTS (SELECT FROM public.codes WHERE request_id = NEW.request_id AND used_at IS NOT NULL) THEN
        RAISE EXCEPTION 'request % was confirmed without its code', NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER own_commands AFTER INSERT ON inbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.verb <> 'decide' OR current_user <> 'teller_api')
    EXECUTE FUNCTION refuse_command();

CREATE FUNCTION refuse_reversal() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% of % is final', TG_NAME, TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
-- A gateway's yes or no stays, and so does the refund that voided the effect. No further call follows.
CREATE TRIGGER outcome BEFORE UPDATE ON effects FOR EACH ROW
    WHEN ((OLD.outcome IN ('done', 'declined')
           AND (OLD.outcome, OLD.reference, OLD.reason, OLD.answered_at, OLD.due_at, OLD.token)
               IS DISTINCT FROM
               (NEW.outcome, NEW.reference, NEW.reason, NEW.answered_at, NEW.due_at, NEW.token))
          OR (OLD.voided_at IS NOT NULL
              AND (OLD.voided_at IS DISTINCT FROM NEW.voided_at OR NEW.due_at IS NOT NULL)))
    EXECUTE FUNCTION refuse_reversal();
CREATE TRIGGER revocation BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN (OLD.revoked_at IS NOT NULL AND OLD.revoked_at IS DISTINCT FROM NEW.revoked_at)
    EXECUTE FUNCTION refuse_reversal();
-- With other decimals, every amount of the past would be read as another one.
CREATE TRIGGER decimals BEFORE UPDATE OF decimals ON resources FOR EACH ROW
    WHEN (OLD.decimals IS DISTINCT FROM NEW.decimals)
    EXECUTE FUNCTION refuse_reversal();
-- The next code of a request or destination takes the row, with another id.
CREATE TRIGGER use BEFORE UPDATE ON codes FOR EACH ROW
    WHEN (OLD.used_at IS NOT NULL AND OLD.used_at IS DISTINCT FROM NEW.used_at AND OLD.id = NEW.id)
    EXECUTE FUNCTION refuse_reversal();

-- The first capture or release that is accepted counts, and none is accepted after the expiry.
CREATE TRIGGER command BEFORE UPDATE ON reservations FOR EACH ROW
    WHEN (OLD.command IS NOT NULL OR OLD.expires_at <= statement_timestamp())
    EXECUTE FUNCTION refuse_reversal();
-- A hold ends as its command says, and without one it ends by its expiry: not before its time, and not beside a command.
-- A refund of a failed reservation, and the no of a gateway, end it too.
CREATE FUNCTION refuse_wrong_end() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    present record;
    taken   bigint;
    back    bigint;
BEGIN
    SELECT status, code, captured INTO present FROM public.decisions WHERE request_id = OLD.request_id AND current;
    SELECT coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0),
           coalesce(sum(amount) FILTER (WHERE kind = 'release'), 0)
      INTO taken, back
      FROM public.entries
     WHERE request_id = OLD.request_id;
    IF taken + back <> OLD.held
       OR (CASE WHEN present.status = 'completed'
               THEN OLD.command IS DISTINCT FROM 'capture' OR taken <> coalesce(OLD.amount, OLD.held)
                    OR present.captured IS DISTINCT FROM CASE WHEN OLD.partitions IS NULL THEN taken END
               WHEN present.status = 'refunded' THEN taken > 0
               WHEN present.code = 'released' THEN OLD.command IS DISTINCT FROM 'release' OR taken > 0
               WHEN present.code = 'reservation_expired'
               THEN OLD.command IS NOT NULL OR OLD.expires_at > clock_timestamp() OR taken > 0
               ELSE true END)
       OR (OLD.partitions IS NOT NULL
           AND EXISTS (SELECT FROM public.legs l
                         LEFT JOIN public.entries e ON e.request_id = l.request_id AND e.leg = l.leg
                                                   AND e.kind IN ('capture', 'release')
                        WHERE l.request_id = OLD.request_id
                          AND e.amount IS DISTINCT FROM l.take)) THEN
        RAISE EXCEPTION 'request % ended as %, with the command %, % captured and % released of %', OLD.request_id,
              coalesce(present.code, present.status, 'undecided'), coalesce(OLD.command, 'none'), taken, back, OLD.held
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER right_end BEFORE DELETE ON reservations FOR EACH ROW EXECUTE FUNCTION refuse_wrong_end();
-- All legs of a reservation are held together, and end together. The legs of other kinds are never held.
-- At the commit, either the row of the hold is there and each leg has a hold alone, or each leg has ended.
CREATE FUNCTION refuse_half_hold() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    is_open boolean := EXISTS (SELECT FROM public.reservations
                                WHERE request_id = NEW.request_id AND partitions IS NOT NULL);
BEGIN
    IF EXISTS (SELECT FROM (SELECT l.take,
                                   sum(e.amount) FILTER (WHERE e.kind = 'hold') AS held,
                                   sum(e.amount) FILTER (WHERE e.kind <> 'hold') AS ended
                              FROM public.legs l
                              LEFT JOIN public.entries e ON e.request_id = l.request_id AND e.leg = l.leg
                                                        AND e.kind IN ('hold', 'capture', 'release')
                             WHERE l.request_id = NEW.request_id
                             GROUP BY l.leg, l.take) AS each
                WHERE held IS DISTINCT FROM take
                   OR ended IS DISTINCT FROM CASE WHEN is_open THEN NULL ELSE take END) THEN
        RAISE EXCEPTION 'the legs of request % are not held or ended together', NEW.request_id
              USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER whole_hold AFTER INSERT ON reservations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.partitions IS NOT NULL) EXECUTE FUNCTION refuse_half_hold();
CREATE CONSTRAINT TRIGGER whole_hold AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.leg > 0 AND NEW.kind IN ('hold', 'capture', 'release')) EXECUTE FUNCTION refuse_half_hold();

-- ---------------------------------------------------------------- roles and grants
--
--               | teller_api              | teller_worker                    | teller_courier            | teller_archive
-- --------------+-------------------------+----------------------------------+---------------------------+----------------------
-- installation  | read                    | read                             | read                      | read
-- clients       | read, insert            | read                             | read                      |
-- api_keys      | read, insert, revoke    |                                  |                           |
-- console_*     | read, insert, delete    |                                  |                           |
-- request_kinds | read                    |                                  |                           | read
-- requests      | read, insert            | read                             | read                      | read, delete
-- legs          | read                    | read                             | read                      | read, delete
-- inbox         | read, insert            | read, insert, delete             | read, insert              | read
-- decisions     | read                    | read, insert, supersede          | read                      | read, delete
-- resources     | read                    | read, insert, update             | read                      | read
-- usages        | read                    | read, insert, update             |                           |
-- daily_usages  | read                    | read, insert, update             |                           |
-- entries       | read                    | read, insert                     | read                      | read, delete
-- reservations  | read, update            | read, insert, update, delete     | read                      | read
-- effects       | read                    | read, insert, update             | read, update              | read, delete
-- attempts      | read                    | read                             | read, insert, update, delete | read, delete
-- gateways      | read                    | read                             | read, insert, update      |
-- gateway_breakers | read                 |                                  | read, insert, update      |
-- accounts      | read, insert, update    | read                             | read                      |
-- address_changes | insert                |                                  | read, update, delete      |
-- mail_counts   |                         |                                  | read, insert, update, delete |
-- webhooks      | read, write             | read but the secrets             | read, disable             |
-- deliveries    | read, resend            | insert                           | read, insert, update, delete | read, delete
-- fanouts       | read                    | insert                           | read, delete              | read
-- codes         | read, insert, update    | read, insert, update, delete     | read, update              |
-- code_turns    | read, insert, update    | read, delete                     | read, insert, update      |
-- code_guesses  | read, insert, update    | read, delete                     |                           |
-- sandbox_*     | read, insert            |                                  |                           |
-- lab_*         | read, write             |                                  |                           |
-- partitions    | read                    | read, update                     | read                      |
-- pauses        | read, insert, delete    | read                             | read                      |
-- workers       | read                    | read, insert, update, delete     | read                      |
-- ownership     | read                    | read, update                     | read                      |
-- alarms        | read                    | read, insert, update             |                           |
-- audit         | read, insert            |                                  |                           | insert
-- bulk_*        | read, insert, update    |                                  |                           |
-- archives      | read                    |                                  |                           | read, insert
-- checkpoints   | read                    | read                             |                           | read, insert, delete
-- archived_usages | read                    | read                             |                           | read, insert, update
-- archived_decisions | read                    |                                  |                           | read, insert, update

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['teller_api', 'teller_worker', 'teller_courier', 'teller_archive'] LOOP
        -- Roles belong to the whole server: another Teller database may have created it, or may be creating it now.
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END $$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO teller_api, teller_worker, teller_courier, teller_archive;

-- Rows are inserted and updated by the columns that a role needs. The numbers and the times that a table gives its rows
-- are not among them. A role that may update a whole table could also lock it against all others.

GRANT SELECT ON installation, clients, requests, legs, inbox, decisions, resources, entries, partitions, pauses, workers, ownership
   TO teller_api, teller_worker, teller_courier;

-- Every process looks whether its numbers lie behind the data, as after a move.
GRANT SELECT ON SEQUENCE inbox_seq_seq TO teller_api, teller_worker, teller_courier;

GRANT SELECT ON request_kinds, api_keys, usages, daily_usages, audit TO teller_api;
GRANT INSERT (id) ON clients TO teller_api;
GRANT INSERT (id, client_id, name, role, digest, expires_at), UPDATE (revoked_at, last_used_at) ON api_keys TO teller_api;
GRANT INSERT (id, client_id, created_by, idempotency_key, fingerprint, kind, partition, resource_id, account, amount,
              apply_before, refund_of, details, metadata, x_request_id, traceparent) ON requests TO teller_api;
GRANT INSERT (partition, request_id, verb, payload) ON inbox TO teller_api;
GRANT INSERT (partition, actor), DELETE ON pauses TO teller_api;
GRANT INSERT (actor, action, request_id, reason, detail) ON audit TO teller_api;
GRANT SELECT, INSERT (digest, key_id, expires_at), DELETE ON console_sessions TO teller_api;

GRANT SELECT ON reservations TO teller_api, teller_worker, teller_courier;
GRANT UPDATE (command, accepted_at, amount) ON reservations TO teller_api;
-- A worker updates nothing there: the right lets it lock the rows.
GRANT INSERT (request_id, partition, expires_at, held, partitions), UPDATE (request_id), DELETE ON reservations
   TO teller_worker;

GRANT SELECT ON effects, attempts, gateways, accounts TO teller_api, teller_worker, teller_courier;
GRANT SELECT ON webhooks, deliveries, fanouts, sandbox_calls, sandbox_payouts TO teller_api;
GRANT SELECT (id, client_id, url, events, previous_until, created_at, disabled_at, disabled_reason) ON webhooks
   TO teller_worker;
GRANT INSERT (client_id, name), UPDATE (email, updated_at, protected_email, protected_until, email_since,
                                               quick_since, quick_changes)
   ON accounts TO teller_api;
GRANT INSERT (id, client_id, url, events, secret), UPDATE (secret, previous_secret, previous_until), DELETE ON webhooks
   TO teller_api;
GRANT INSERT (request_id, status) ON sandbox_calls TO teller_api;
GRANT INSERT (request_id) ON sandbox_payouts TO teller_api;
GRANT UPDATE (status, due_at, tries) ON deliveries TO teller_api;

GRANT SELECT ON usages, daily_usages TO teller_worker;
GRANT INSERT (partition, request_id, verb), DELETE ON inbox TO teller_worker;
GRANT INSERT ON decisions, resources, usages, daily_usages, entries TO teller_worker;
GRANT UPDATE (current) ON decisions TO teller_worker;
GRANT UPDATE (unit, client_id, available, held, version, overdraft, per_account_limit, starts_at, ends_at, gateway,
              confirm_above, approve_above, metadata, closed_at, digest, last_entry_at, per_account_daily_limit)
   ON resources TO teller_worker;
GRANT UPDATE (used, "limit") ON usages TO teller_worker;
GRANT UPDATE (day, used, "limit") ON daily_usages TO teller_worker;
GRANT UPDATE (sequence, drained_at, low_water, next_low_water, next_xid) ON partitions TO teller_worker;
GRANT INSERT (request_id, partition, gateway, client_id, created_at, due_at),
      UPDATE (due_at, tries, outcome, reason, voided_at) ON effects TO teller_worker;
GRANT INSERT (request_id, version, type, email, client_id) ON deliveries TO teller_worker;
GRANT INSERT (webhook_id, request_ids, versions) ON fanouts TO teller_worker;
GRANT INSERT (id, host, pid, alive_until), UPDATE (alive_until), DELETE ON workers TO teller_worker;
GRANT UPDATE (worker_id, since) ON ownership TO teller_worker;
GRANT SELECT ON alarms TO teller_api, teller_worker;
GRANT INSERT (code, partition, detail), UPDATE (detail, seen_at) ON alarms TO teller_worker;

GRANT SELECT ON webhooks, deliveries, fanouts TO teller_courier;
GRANT DELETE ON fanouts, deliveries, attempts TO teller_courier;
GRANT INSERT (request_id, version, type, webhook_id),
      UPDATE (status, due_at, tries, token, last_status, last_error, delivered_at) ON deliveries TO teller_courier;
GRANT INSERT (partition, request_id, verb, leg) ON inbox TO teller_courier;
GRANT INSERT (request_id, leg, token), UPDATE (ended_at, status, outcome, error) ON attempts TO teller_courier;
GRANT INSERT (name), UPDATE (open_until, probed) ON gateways TO teller_courier;
GRANT UPDATE (due_at, tries, token, leased_until, outcome, reference, reason, answered_at) ON effects TO teller_courier;
GRANT SELECT ON gateway_breakers TO teller_api;
GRANT SELECT, INSERT (gateway, client_id, failures, is_open), UPDATE (failures, is_open) ON gateway_breakers
   TO teller_courier;
GRANT UPDATE (disabled_at, disabled_reason, failing_since, failing_tries, failing_error) ON webhooks TO teller_courier;

GRANT SELECT ON codes, code_turns, code_guesses TO teller_api;
GRANT INSERT (id, client_id, destination, purpose, created_at, expires_at, has_turn, due_at),
      UPDATE (id, destination, created_at, expires_at, used_at, wrong, request_wrong, has_turn, due_at, tries, token)
   ON codes TO teller_api;
GRANT INSERT (destination, taken_at), UPDATE (taken_at) ON code_turns TO teller_api, teller_courier;
GRANT INSERT (client_id, destination, day, wrong), UPDATE (wrong) ON code_guesses TO teller_api;
GRANT SELECT, INSERT (id, client_id, destination, request_id, created_at, has_turn, due_at),
      UPDATE (id, destination, created_at, expires_at, used_at, wrong, has_turn, due_at, tries, token), DELETE
   ON codes TO teller_worker;
GRANT SELECT, DELETE ON code_turns, code_guesses TO teller_worker;
GRANT SELECT, UPDATE (has_turn, due_at, tries, token, expires_at) ON codes TO teller_courier;
GRANT SELECT ON code_turns TO teller_courier;

GRANT INSERT (client_id, account, email, became, stood_since) ON address_changes TO teller_api;
GRANT SELECT, INSERT (client_id, kind, mailbox, hour, mails), UPDATE (hour, mails), DELETE ON mail_counts TO teller_courier;
GRANT SELECT, UPDATE (due_at, tries, token), DELETE ON address_changes TO teller_courier;

GRANT SELECT, INSERT, UPDATE, DELETE ON lab_things, lab_approvals, lab_results TO teller_api;
GRANT SELECT, INSERT (id, action, reason, filter, actor, client_id, key_id),
      UPDATE (matched, done, sent, finished_at, stopped_by) ON bulk_actions TO teller_api;
GRANT SELECT, INSERT (action_id, place, request_id, version), UPDATE (outcome, problem, refund_id) ON bulk_items
   TO teller_api;

-- `teller archive` has a role of its own, which no running process uses. Only it removes requests.
GRANT SELECT ON installation, request_kinds, requests, legs, inbox, decisions, resources, entries, reservations, effects,
                attempts, deliveries, fanouts, archives, checkpoints, archived_usages, archived_decisions TO teller_archive;
GRANT DELETE ON requests, legs, decisions, entries, effects, attempts, deliveries, checkpoints TO teller_archive;
GRANT INSERT (number, name, digest, before, requests, entries, first_id, last_id, clients, ids) ON archives
   TO teller_archive;
GRANT INSERT ON checkpoints, archived_usages, archived_decisions TO teller_archive;
GRANT UPDATE (used, day, day_used) ON archived_usages TO teller_archive;
GRANT UPDATE (decisions, sequences, last) ON archived_decisions TO teller_archive;
GRANT INSERT (actor, action, reason, detail) ON audit TO teller_archive;
GRANT SELECT ON archives, archived_decisions TO teller_api;
GRANT SELECT ON checkpoints, archived_usages TO teller_api, teller_worker;

-- ---------------------------------------------------------------- the first rows

INSERT INTO partitions (id) SELECT generate_series(0, :partitions - 1);
INSERT INTO ownership (partition) SELECT generate_series(0, :partitions - 1);
INSERT INTO installation (schema_version, partitions) VALUES (:schema_version, :partitions);
