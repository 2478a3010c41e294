-- Version 20: webhooks are listed by (created_at, id), newest first.
-- Processes of the version before run on.

CREATE INDEX webhooks_newest ON webhooks (created_at DESC, id DESC);
CREATE INDEX webhooks_newest_of_client ON webhooks (client_id, created_at DESC, id DESC);
