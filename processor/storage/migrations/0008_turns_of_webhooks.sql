-- Version 8.
--   The courier expands the fanout rows of the webhooks in turn.
-- transactional: no

-- drop --
DROP INDEX CONCURRENTLY IF EXISTS fanouts_of_webhook;

-- build --
CREATE INDEX CONCURRENTLY fanouts_of_webhook ON fanouts (webhook_id, id);
