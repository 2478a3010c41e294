-- Version 24: finished requests leave for files.
--   1. Four tables hold what stays of them, and a function finds the file of a request.
--   2. A role of its own may remove them, and triggers let it remove nothing else.
-- Each statement takes one table, because batches lock several, in another order. All are repeatable.
-- transactional: no

-- role --
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'teller_archive') THEN
        CREATE ROLE teller_archive LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;
GRANT USAGE ON SCHEMA public TO teller_archive;

-- files --
CREATE TABLE IF NOT EXISTS archives (
    number     integer     PRIMARY KEY CHECK (number >= 1),
    name       text        NOT NULL UNIQUE,
    digest     bytea       NOT NULL CHECK (length(digest) = 32),
    before     timestamptz NOT NULL,
    requests   integer     NOT NULL CHECK (requests BETWEEN 1 AND 65536),
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
CREATE INDEX IF NOT EXISTS archives_ranges ON archives (last_id, first_id);
COMMENT ON TABLE archives IS
    'The files that requests have left for. A row is written in the transaction that removes the requests of its file.';
COMMENT ON COLUMN archives.digest IS 'SHA-256 of the file.';
COMMENT ON COLUMN archives.before IS 'The requests were finished before this time.';
COMMENT ON COLUMN archives.ids IS
    '18 bytes for each request, in the order of ids: the id, and the place of its client in clients, from 0.';
GRANT SELECT, INSERT (number, name, digest, before, requests, entries, first_id, last_id, clients, ids) ON archives
   TO teller_archive;
GRANT SELECT ON archives TO teller_api;

-- finding --
CREATE OR REPLACE FUNCTION archived_in(request uuid) RETURNS TABLE (name text, client_id text) LANGUAGE sql STABLE
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

-- checkpoints --
CREATE TABLE IF NOT EXISTS checkpoints (
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
GRANT SELECT, INSERT, DELETE ON checkpoints TO teller_archive;
GRANT SELECT ON checkpoints TO teller_api, teller_worker;

-- usages --
CREATE TABLE IF NOT EXISTS archived_usages (
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
GRANT SELECT, INSERT, UPDATE (used, day, day_used) ON archived_usages TO teller_archive;
GRANT SELECT ON archived_usages TO teller_api, teller_worker;

-- numbers --
CREATE TABLE IF NOT EXISTS archived_decisions (
    partition smallint PRIMARY KEY,
    decisions bigint   NOT NULL CHECK (decisions >= 1),
    sequences numeric  NOT NULL,
    last      bigint   NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE archived_decisions IS
    'For each partition, the decisions that have left: how many, the sum of their numbers, and the greatest of them.';
GRANT SELECT, INSERT, UPDATE (decisions, sequences, last) ON archived_decisions TO teller_archive;
GRANT SELECT ON archived_decisions TO teller_api;

-- removals --
CREATE OR REPLACE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql
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

-- orphans --
CREATE OR REPLACE FUNCTION refuse_orphaning() RETURNS trigger LANGUAGE plpgsql
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

-- chains --
CREATE OR REPLACE FUNCTION refuse_broken_chain() RETURNS trigger LANGUAGE plpgsql
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

-- requests_leave --
CREATE OR REPLACE TRIGGER removal AFTER DELETE ON requests REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_removal();
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON requests FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
GRANT SELECT, DELETE ON requests TO teller_archive;

-- decisions_leave --
CREATE OR REPLACE TRIGGER removal AFTER DELETE ON decisions REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_orphaning();
CREATE OR REPLACE TRIGGER never_deleted BEFORE DELETE ON decisions FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
GRANT SELECT, DELETE ON decisions TO teller_archive;

-- legs_leave --
CREATE OR REPLACE TRIGGER removal AFTER DELETE ON legs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_orphaning();
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON legs FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
GRANT SELECT, DELETE ON legs TO teller_archive;

-- entries_leave --
CREATE OR REPLACE TRIGGER removal AFTER DELETE ON entries REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_broken_chain();
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON entries FOR EACH ROW
    WHEN (current_user <> 'teller_archive') EXECUTE FUNCTION refuse_change();
GRANT SELECT, DELETE ON entries TO teller_archive;

-- effects_leave --
CREATE OR REPLACE TRIGGER removal AFTER DELETE ON effects REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_orphaning();
GRANT SELECT, DELETE ON effects TO teller_archive;

-- attempts_leave --
GRANT SELECT, DELETE ON attempts TO teller_archive;

-- deliveries_leave --
GRANT SELECT, DELETE ON deliveries TO teller_archive;

-- reads --
GRANT SELECT ON installation, request_kinds, inbox, resources, reservations, fanouts TO teller_archive;
GRANT INSERT (actor, action, reason, detail) ON audit TO teller_archive;
