-- The columns and tables of the records, for the queries of other modules.

-- request_columns --
-- After `at` comes the time since which a request has its status. A refund of a part is a new state of the same status.
-- The last two are the expiry of a hold, and the command that will end it.
r.id, r.client_id, r.kind, r.resource_id, r.account, r.amount, r.metadata, r.details, r.apply_before, r.refund_of,
r.created_at, coalesce(d.version, 1), coalesce(d.status, 'processing'),
CASE WHEN d.request_id IS NULL THEN 'queued' ELSE d.stage END, d.code, d.reason, d.reference, coalesce(d.refunded, 0),
d.sequence, d.decided_at, d.at,
CASE WHEN d.refunded > 0
     THEN (SELECT s.at FROM decisions s WHERE s.request_id = d.request_id AND s.status = d.status ORDER BY s.version LIMIT 1)
     ELSE d.at END,
d.leg, d.captured, CASE WHEN d.stage = 'held' THEN (SELECT v.expires_at FROM reservations v WHERE v.request_id = r.id) END,
CASE WHEN d.stage = 'held' THEN (SELECT v.command FROM reservations v WHERE v.request_id = r.id) END

-- request_tables --
requests r LEFT JOIN decisions d ON d.request_id = r.id AND d.current

-- resource_columns --
id, kind, unit, decimals, client_id, partition, available, held, version, overdraft, per_account_limit, starts_at, ends_at,
gateway, confirm_above, approve_above, metadata, created_at, closed_at, per_account_daily_limit

-- entry_columns --
e.resource_id, e.version, e.kind, e.request_id, e.account, e.amount, e.available, e.held, e.created_at
