-- Version 7.
--   1. `effects.client_id`: the courier calls a gateway for the clients in turn.
--   2. `gateway_breakers`: each client has a circuit breaker of its own at each gateway.
-- Couriers of version 6 run on. They find the oldest effects by sorting those that are due.
-- Each statement is repeatable.
-- transactional: no

-- column --
ALTER TABLE effects ADD COLUMN IF NOT EXISTS client_id text NOT NULL DEFAULT '';

-- due_effects --
-- Effects that were finished need no client.
UPDATE effects e
   SET client_id = r.client_id
  FROM requests r
 WHERE e.due_at IS NOT NULL
   AND e.client_id = ''
   AND r.id = e.request_id;

-- drop --
DROP INDEX CONCURRENTLY IF EXISTS effects_due_in_turn;

-- build --
CREATE INDEX CONCURRENTLY effects_due_in_turn ON effects (gateway, client_id, due_at) WHERE due_at IS NOT NULL;

-- drop_old --
DROP INDEX CONCURRENTLY IF EXISTS effects_due;

-- rename --
ALTER INDEX effects_due_in_turn RENAME TO effects_due;

-- breakers --
CREATE TABLE IF NOT EXISTS gateway_breakers (
    gateway   text    NOT NULL,
    client_id text    NOT NULL,
    failures  integer NOT NULL CHECK (failures >= 0),
    is_open   boolean NOT NULL,
    PRIMARY KEY (gateway, client_id)
) WITH (fillfactor = 50);

-- probed --
ALTER TABLE gateways ADD COLUMN IF NOT EXISTS probed text;

-- rights --
DO $$
BEGIN
    GRANT SELECT ON gateway_breakers TO teller_api;
    GRANT SELECT, INSERT, UPDATE ON gateway_breakers TO teller_courier;
    COMMENT ON COLUMN effects.client_id IS
        'The client of the request: clients take turns. Rows of a release that did not write it have an empty text.';
    COMMENT ON TABLE gateways IS
        'The probes of each gateway. A lock on its row lets one courier at a time claim effects.';
    COMMENT ON COLUMN gateways.failures IS 'Unused since gateway_breakers counts the failures of each client.';
    COMMENT ON COLUMN gateways.open_until IS
        'Clients whose breaker is open have no call before this time; NULL: no breaker is open.';
    COMMENT ON COLUMN gateways.probed IS 'The client that had the last probe. The next probe is one of the client behind it.';
    COMMENT ON TABLE gateway_breakers IS
        'The circuit breaker of each client at each gateway. A client without a row has had no unknown outcome.';
    COMMENT ON COLUMN gateway_breakers.failures IS 'Unknown outcomes in a row.';
    COMMENT ON COLUMN gateway_breakers.is_open IS
        'Clients with an open breaker at the gateway have one call at a time together.';
END $$;
