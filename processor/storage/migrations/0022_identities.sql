-- Version 22: the tables without a primary key can be replicated logically, too.

ALTER TABLE alarms REPLICA IDENTITY FULL;
ALTER TABLE lab_approvals REPLICA IDENTITY FULL;
