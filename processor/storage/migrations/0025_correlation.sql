-- Version 25: a request keeps the headers X-Request-Id and traceparent of the call that made it.
-- Processes of the version before run on. Their requests keep none. The constraints are validated apart, because that
-- reads all requests, and accepting goes on meanwhile.
-- transactional: no

-- columns --
ALTER TABLE requests
  ADD COLUMN IF NOT EXISTS x_request_id text,
  ADD COLUMN IF NOT EXISTS traceparent  text,
  DROP CONSTRAINT IF EXISTS requests_x_request_id_check,
  DROP CONSTRAINT IF EXISTS requests_traceparent_check,
  ADD CONSTRAINT requests_x_request_id_check
      CHECK (length(x_request_id) BETWEEN 1 AND 128 AND x_request_id !~ '[^A-Za-z0-9._:@/+=-]') NOT VALID,
  ADD CONSTRAINT requests_traceparent_check
      CHECK (length(traceparent) = 55 AND traceparent !~ '[^0-9a-f-]') NOT VALID;
COMMENT ON COLUMN requests.x_request_id IS 'The header X-Request-Id of the call that made it; NULL: no call made it.';
COMMENT ON COLUMN requests.traceparent IS 'The header traceparent of that call, in version 00 of W3C Trace Context; NULL: it had none.';
GRANT INSERT (x_request_id, traceparent) ON requests TO teller_api;

-- validation --
ALTER TABLE requests VALIDATE CONSTRAINT requests_x_request_id_check;
ALTER TABLE requests VALIDATE CONSTRAINT requests_traceparent_check;
