-- Version 5.
--   The inbox takes no verb `report`, which no release wrote.
-- A file of its own: batches lock the inbox before the requests, so one transaction must not change both tables.
-- Two statements: the scan needs only a lock that lets batches and intake continue. Both are repeatable.
-- transactional: no

-- replace --
ALTER TABLE inbox DROP CONSTRAINT inbox_verb_check,
                  ADD CONSTRAINT inbox_verb_check CHECK (verb IN ('decide', 'cancel', 'settle', 'replay', 'expire', 'confirm',
                                                                  'approve', 'deny', 'capture', 'release')) NOT VALID;

-- scan --
ALTER TABLE inbox VALIDATE CONSTRAINT inbox_verb_check;
