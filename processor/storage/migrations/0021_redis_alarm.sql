-- Version 21: a worker without notifications says so, and `/readyz` names it.
-- Workers of the version before run on. Those of this version raise no such alarm before it.

ALTER TABLE alarms DROP CONSTRAINT alarms_code_check;
ALTER TABLE alarms ADD CONSTRAINT alarms_code_check CHECK (code IN ('locked', 'misplaced', 'redis'));
COMMENT ON TABLE alarms IS
    'The last time that a worker saw something wrong: a lock held against it, work in a wrong partition, a Redis that is no use.';
