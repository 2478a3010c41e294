-- Version 18: each installation has an id, which its names in Redis carry.
-- Processes of the version before run on, and use the names that all installations share.

ALTER TABLE installation
    ADD COLUMN id      uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN made_in text;
COMMENT ON COLUMN installation.id IS 'The names in Redis carry it, so installations can share a Redis.';
COMMENT ON COLUMN installation.made_in IS
    'The cluster and database that the id was made for. `teller migrate` gives a copy elsewhere another id.';
