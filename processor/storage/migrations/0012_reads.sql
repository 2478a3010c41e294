-- Version 12.
--   1. The opening and the amendments of a resource have an index, for `?at=`.
--   2. The resources of a client, and those for all, have an index, for the list that a client reads.
-- Both are made while batches and intake go on.
-- transactional: no

-- drop_invalid_rules --
DROP INDEX CONCURRENTLY IF EXISTS requests_of_rules;

-- create_rules --
CREATE INDEX CONCURRENTLY requests_of_rules ON requests (resource_id, id) WHERE kind IN ('opening', 'amendment');

-- drop_invalid_client --
DROP INDEX CONCURRENTLY IF EXISTS resources_of_client;

-- create_client --
CREATE INDEX CONCURRENTLY resources_of_client ON resources (client_id, kind, created_at DESC, id DESC);
