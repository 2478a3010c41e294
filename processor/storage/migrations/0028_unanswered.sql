-- Version 28: an index for the gateways that leave calls unanswered, for `/readyz` and the metrics.
-- Processes of the version before run on.

CREATE INDEX gateway_breakers_unanswered ON gateway_breakers (gateway, client_id) WHERE failures >= 3;
