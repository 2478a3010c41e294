-- Version 29: couriers remove old deliveries and attempts, and a request leaves with any number of refunds.

ALTER TABLE archives DROP CONSTRAINT archives_requests_check;
ALTER TABLE archives ADD CONSTRAINT archives_requests_check CHECK (requests >= 1);
GRANT DELETE ON deliveries, attempts TO teller_courier;
