-- Version 16: legs, the resources of a request that has several.
-- Statements of the version before work during and after this migration. No request has legs yet.
-- Each statement takes one table, because batches lock several, in another order. All are repeatable.
-- transactional: no

-- legs --
CREATE TABLE IF NOT EXISTS legs (
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
CREATE INDEX IF NOT EXISTS legs_of_resource ON legs (resource_id, request_id);
COMMENT ON TABLE legs IS
    'The resources of requests that have several, as `legs` of their details says. Only a trigger writes it, with its request.';
COMMENT ON COLUMN legs.leg IS 'The place of the leg, from 0. Entries and inbox rows have the same number.';
COMMENT ON COLUMN legs.take IS 'The quantity that is taken or held; NULL: the leg gives.';

-- append_only_legs --
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON legs FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE OR REPLACE TRIGGER never_emptied BEFORE TRUNCATE ON legs FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
GRANT SELECT ON legs TO teller_api, teller_worker, teller_courier;

-- functions --
CREATE OR REPLACE FUNCTION home_partition(resource text, partitions bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN mod(mod(('x' || substr(encode(sha256(convert_to(resource, 'UTF8')), 'hex'), 1, 8))::bit(32)::bigint, partitions)
           * mod(4294967296, partitions)
           + ('x' || substr(encode(sha256(convert_to(resource, 'UTF8')), 'hex'), 9, 8))::bit(32)::bigint, partitions);
CREATE OR REPLACE FUNCTION place_legs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
CREATE OR REPLACE FUNCTION queue_legs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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

-- kinds --
ALTER TABLE request_kinds ADD COLUMN IF NOT EXISTS requires_legs boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN request_kinds.requires_legs IS 'Requests without legs are refused. Each leg takes from a resource, or gives to one.';
UPDATE request_kinds SET requires_account = true, requires_legs = true WHERE kind = 'exchange';

-- kinds_of_requests --
CREATE OR REPLACE FUNCTION refuse_wrong_kind() RETURNS trigger LANGUAGE plpgsql AS $$
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
        OR (k.requires_legs AND NOT coalesce(made.details ? 'legs', false))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request % lacks what its kind requires, or there is no kind %', wrong.id, wrong.kind
              USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

-- with_legs --
CREATE OR REPLACE TRIGGER with_legs AFTER INSERT ON requests FOR EACH ROW WHEN (NEW.details ? 'legs')
    EXECUTE FUNCTION place_legs();

-- queued_requests --
DROP TRIGGER IF EXISTS queued_with_legs ON requests;
CREATE CONSTRAINT TRIGGER queued_with_legs AFTER INSERT ON requests DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.details ? 'legs') EXECUTE FUNCTION queue_legs();

-- queued_commands --
DROP TRIGGER IF EXISTS queued_with_legs ON inbox;
CREATE CONSTRAINT TRIGGER queued_with_legs AFTER INSERT ON inbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.leg = 0 AND NEW.verb NOT IN ('decide', 'settle', 'cancel', 'deny')) EXECUTE FUNCTION queue_legs();
COMMENT ON COLUMN inbox.leg IS
    '0 for the row in the home partition of the request. A row of a later leg only holds its place in the partition of that leg.';

-- numbers_of_rows --
REVOKE INSERT (leg) ON inbox FROM teller_api;

-- decided_legs --
ALTER TABLE decisions ADD COLUMN IF NOT EXISTS leg smallint CHECK (leg BETWEEN 0 AND 9);
COMMENT ON COLUMN decisions.leg IS 'The leg that the code is about, of a request with legs.';

-- only_supersede --
CREATE OR REPLACE TRIGGER only_supersede BEFORE UPDATE ON decisions FOR EACH ROW
    WHEN (NOT OLD.current OR NEW.current
          OR (OLD.request_id, OLD.version, OLD.status, OLD.stage, OLD.code, OLD.reason, OLD.reference, OLD.refunded,
              OLD.sequence, OLD.decided_at, OLD.at, OLD.actor, OLD.detail, OLD.trace, OLD.leg)
             IS DISTINCT FROM
             (NEW.request_id, NEW.version, NEW.status, NEW.stage, NEW.code, NEW.reason, NEW.reference, NEW.refunded,
              NEW.sequence, NEW.decided_at, NEW.at, NEW.actor, NEW.detail, NEW.trace, NEW.leg))
    EXECUTE FUNCTION refuse_revision();
