-- Version 13.
--   The table `alarms`: a worker notes what no part of Teller does, and `/readyz` names it.

CREATE TABLE alarms (
    code      text        NOT NULL CHECK (code IN ('locked', 'misplaced')),
    partition smallint,
    detail    text        NOT NULL,
    seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT alarms_last UNIQUE NULLS NOT DISTINCT (code, partition)
);
COMMENT ON TABLE alarms IS
    'The last time that a worker saw something that no part of Teller does: a lock held against it, or work in a wrong partition.';
COMMENT ON COLUMN alarms.partition IS 'The partition that is concerned; NULL: none, or all.';
COMMENT ON COLUMN alarms.detail IS 'A description for people.';

GRANT SELECT ON alarms TO teller_api, teller_worker;
GRANT INSERT (code, partition, detail), UPDATE (detail, seen_at) ON alarms TO teller_worker;
