-- Version 3.
--   1. All comments are rewritten in plain English.
--   2. `partitions.floor` is renamed to `low_water`, and `next_floor` to `next_low_water`.
-- Processes of version 2 cannot decide after this: their statements name the old columns, and fail before they take
-- anything. Version 2 was never released; later migrations keep the columns that the release before uses.
-- The renaming comes last, so that the lock that stops all batches is held only for a moment.

COMMENT ON TABLE installation IS
    'One row: the version of this schema, and the number of partitions that resources are spread over.';
COMMENT ON TABLE clients IS
    'A party that owns requests, accounts and keys. The account u_42 of one client is not the account u_42 of another.';
COMMENT ON TABLE api_keys IS 'Bearer keys. A key has 256 random bits, and only its SHA-256 is stored.';
COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of the whole key as it is sent.';
COMMENT ON COLUMN api_keys.expires_at IS 'The key stops working at this time; NULL: it works until it is revoked.';
COMMENT ON COLUMN api_keys.last_used_at IS 'Precise to one minute: it is written at most once a minute.';
COMMENT ON TABLE console_sessions IS
    'Signed-in sessions of the console. A session ends with its key, at expires_at, or when its row is deleted.';
COMMENT ON COLUMN console_sessions.digest IS 'SHA-256 of the token in the cookie, which has 256 random bits.';
COMMENT ON TABLE requests IS
    'Every accepted request, word for word. The API writes it once, together with its inbox row; it never changes.';
COMMENT ON COLUMN requests.partition IS
    'The partition of the first resource. Only this partition writes decisions of this request.';
COMMENT ON COLUMN requests.fingerprint IS
    'SHA-256 over the kind and the canonical parsed body, without defaults. It separates a repeated request from another request with the same key.';
COMMENT ON COLUMN requests.amount IS
    'Whole units of the resource (money: minor units). For an opening, the quantity that the resource begins with.';
COMMENT ON COLUMN requests.details IS
    'Fields that only this kind has: the rules of an opening or amendment, the destination of a withdrawal, the legs of an exchange.';
COMMENT ON TABLE inbox IS
    'The work that each partition has still to do, in the order of seq. The batch that applies a row deletes it in the same transaction.';
COMMENT ON TABLE decisions IS
    'The states of each request, one row for each. Version 1 is the acceptance (requests), so the first row here is version 2.';
COMMENT ON COLUMN decisions.current IS
    'Whether this is the present state. It becomes false once, when the next version is written.';
COMMENT ON COLUMN decisions.sequence IS
    'The number of the decision within its partition, without gaps. Later versions of the request keep it.';
COMMENT ON COLUMN decisions.reference IS 'The gateway''s own reference for the effect.';
COMMENT ON COLUMN decisions.detail IS 'A description of the change, for people.';
COMMENT ON COLUMN decisions.trace IS 'The traceback of a fault, for admins. Clients never see it.';
COMMENT ON TABLE resources IS
    'A limited thing: an available quantity, a held quantity, and rules. Only a batch of its partition writes it.';
COMMENT ON COLUMN resources.version IS 'The number of its entries.';
COMMENT ON COLUMN resources.digest IS 'The digest of its last entry; 32 zero bytes for a resource without entries.';
COMMENT ON COLUMN resources.client_id IS 'The only client that the resource exists for; NULL: all clients.';
COMMENT ON TABLE usages IS 'The quantity that an account has taken or holds of a resource with a per-account limit.';
COMMENT ON COLUMN usages."limit" IS
    'The limit when the account last took something. It is a copy, because a CHECK sees only its own row.';
COMMENT ON TABLE entries IS
    'The ledger. Entries never change; the sum of a resource''s entries is its state, at every version.';
COMMENT ON COLUMN entries.available IS 'The available quantity after this entry; held is the held quantity after it.';
COMMENT ON COLUMN entries.created_at IS
    'The later of two times: the clock after the partition was locked, and the entry before. It never runs backwards.';
COMMENT ON COLUMN entries.digest IS
    'SHA-256 over the digest before it and this entry. A change of one entry breaks every digest after it.';
COMMENT ON INDEX entries_once IS
    'A request takes, holds and gives at most once for each leg. A hold ends once, by capture or by release.';
COMMENT ON TABLE effects IS
    'The act that a gateway performs for a request with a hold. A batch creates it, a courier calls the gateway, a batch settles it.';
COMMENT ON COLUMN effects.due_at IS 'The time of the next call; NULL: no call is due.';
COMMENT ON COLUMN effects.tries IS 'Calls since the effect was created or last replayed.';
COMMENT ON COLUMN effects.leased_until IS 'The latest end of the call in flight that has this token.';
COMMENT ON COLUMN effects.outcome IS
    'The first definite answer (done, declined) is final; misconfigured and unknown mean that there was none.';
COMMENT ON COLUMN effects.voided_at IS
    'A refund released the hold at this time, so no further call is made. A payment reported after it raises an alert.';
COMMENT ON TABLE attempts IS
    'Calls of gateways. Each row is committed before its call, so no call is made without a row.';
COMMENT ON TABLE gateways IS
    'The circuit breaker of each gateway. A lock on its row lets one courier at a time claim effects.';
COMMENT ON COLUMN gateways.failures IS 'Unknown outcomes in a row.';
COMMENT ON COLUMN gateways.open_until IS 'No calls are made before this time.';
COMMENT ON TABLE accounts IS 'The e-mail address of each account that has one.';
COMMENT ON TABLE address_changes IS
    'Old addresses that must still be notified of a change. The row is written with the change, and deleted when its mail was sent or given up.';
COMMENT ON COLUMN address_changes.email IS 'The old address, which receives the mail.';
COMMENT ON COLUMN address_changes.became IS 'The new address, masked; NULL: the address was removed.';
COMMENT ON COLUMN address_changes.due_at IS 'The time of the next try. A claim moves it beyond the lease.';
COMMENT ON TABLE webhooks IS 'The addresses that receive a client''s events.';
COMMENT ON COLUMN webhooks.events IS 'The event types that are sent; NULL: all.';
COMMENT ON COLUMN webhooks.previous_secret IS
    'A second signature with this secret is sent until previous_until, while the receiver changes over.';
COMMENT ON TABLE deliveries IS
    'Notifications, pending and sent. A row is written with the change it reports; its payload is the decision of that version, which never changes.';
COMMENT ON COLUMN deliveries.due_at IS
    'The time of the next try. A claim moves it beyond the lease, so a courier that dies loses nothing.';
COMMENT ON COLUMN deliveries.token IS 'The claim in progress. Only its holder may write the result.';
COMMENT ON TABLE fanouts IS
    'All notifications of one batch for one webhook, in one row, which costs the batch little. A courier expands it into deliveries.';
COMMENT ON TABLE sandbox_calls IS 'Calls that the sandbox gateway received.';
COMMENT ON TABLE sandbox_payouts IS 'Payouts that the sandbox gateway made, at most one for each idempotency key.';
COMMENT ON TABLE codes IS
    'The last one-time code for each client, destination and purpose, and for each request that waits for one. The digits are not stored: they are an HMAC over id.';
COMMENT ON COLUMN codes.id IS
    'Random, and new for each code. The digits can be computed from it only with TELLER_SECRET.';
COMMENT ON COLUMN codes.request_id IS 'The only request that this code confirms.';
COMMENT ON COLUMN codes.expires_at IS
    'The end of the code''s lifetime. For a code of a request it is counted from the sending, and NULL before.';
COMMENT ON COLUMN codes.wrong IS 'Wrong tries. After 5 the code is invalid.';
COMMENT ON COLUMN codes.has_turn IS
    'Whether the code may be sent now; otherwise it waits for the cooldown of its destination.';
COMMENT ON COLUMN codes.due_at IS
    'The time of the next try to send; NULL: it was sent, or never will be. A claim moves it beyond the lease.';
COMMENT ON TABLE code_turns IS
    'The time at which a code was last allowed for a destination, for all clients together. A lock on the row orders senders.';
COMMENT ON TABLE code_guesses IS
    'Wrong tries of a client at a destination in a day (UTC). After 20 the destination is locked until the day ends.';
COMMENT ON TABLE lab_things IS
    'The objects that the race lab''s users compete for. They have no CHECK and no foreign key, on purpose: races must be possible.';
COMMENT ON TABLE lab_approvals IS 'Users who got an object. Rows are deleted when their race ends.';
COMMENT ON TABLE lab_results IS 'The latest runs that the lab''s page shows, with the steps of each user.';
COMMENT ON TABLE partitions IS 'One row for each partition. Only batches of the partition write it.';
COMMENT ON COLUMN partitions.sequence IS 'The number of the last decision.';
COMMENT ON COLUMN partitions.drained_at IS
    'The time of the last batch. The sweep looks for work that had no batch for too long.';
COMMENT ON COLUMN partitions.floor IS
    'The low-water mark: this partition has no inbox row with a seq at or below it, and none will appear. Queries begin above it, to skip dead rows.';
COMMENT ON COLUMN partitions.next_floor IS
    'The next low-water mark. It is valid when all transactions below next_xid have ended; until then one of them may commit a lower seq.';
COMMENT ON TABLE pauses IS
    'Partitions that accept requests but do not decide. It is a table of its own because batches lock partitions.';
COMMENT ON TABLE workers IS 'The heartbeat of each worker process, by the clock of the database.';
COMMENT ON TABLE ownership IS
    'The worker that consumes the doorbells of each partition. Only speed depends on it: the lock of the partition decides correctness.';
COMMENT ON TABLE audit IS
    'Acts of people: actor, action, time and reason. Requests themselves are not repeated here. Append-only.';
COMMENT ON TABLE bulk_actions IS
    'Failed requests that were replayed or refunded together, and the progress. The work is done in parts, each in one transaction.';
COMMENT ON COLUMN bulk_actions.filter IS
    'The filter of the action, for people to read. The requests themselves are in bulk_items.';
COMMENT ON COLUMN bulk_actions.done IS
    'The place of the last item that was processed; sent counts those that were replayed or refunded.';
COMMENT ON COLUMN bulk_actions.finished_at IS
    'The time after which nothing more happens: all items are done, or stopped_by stopped the action.';
COMMENT ON TABLE bulk_items IS
    'The requests of a bulk action, as they were when it began, in the order in which they are processed.';
COMMENT ON COLUMN bulk_items.version IS
    'The version in which the request had failed. A later version comes from this action or from another one.';

ALTER TABLE partitions RENAME COLUMN floor TO low_water;
ALTER TABLE partitions RENAME COLUMN next_floor TO next_low_water;

-- From PostgreSQL 18 on, NOT NULL is a constraint whose name does not follow the column.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'partitions'::regclass AND contype = 'n') THEN
        ALTER TABLE partitions RENAME CONSTRAINT partitions_floor_not_null TO partitions_low_water_not_null;
        ALTER TABLE partitions RENAME CONSTRAINT partitions_next_floor_not_null TO partitions_next_low_water_not_null;
    END IF;
END $$;
