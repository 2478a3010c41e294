-- The statements of `processor/verify/archive.py`, in the snapshot of processor/verify/checks.sql.

-- read_archives --
SELECT number, name, digest, before, requests, entries
  FROM archives
 ORDER BY number;

-- read_ids --
-- The requests of a file, each with its client.
SELECT substring(ids FROM 18 * n + 1 FOR 16),
       clients[('x' || encode(substring(ids FROM 18 * n + 17 FOR 2), 'hex'))::bit(16)::integer + 1]
  FROM archives, generate_series(0, requests - 1) AS n
 WHERE number = %(number)s;

-- count_requests --
SELECT count(*) FROM requests WHERE id = ANY(%(ids)s::uuid[]);

-- read_links --
-- Entries and checkpoints, in the order of each resource.
SELECT resource_id, version, digest, false FROM entries
 UNION ALL
SELECT resource_id, version, digest, true FROM checkpoints
 ORDER BY 1, 2, 4;

-- read_resources --
SELECT id, version, digest FROM resources WHERE version > 0;

-- read_usages --
SELECT resource_id, client_id, account, used, day::text, day_used
  FROM archived_usages
 ORDER BY resource_id COLLATE "C", client_id COLLATE "C", account COLLATE "C";

-- read_decisions --
SELECT partition, decisions, sequences, last
  FROM archived_decisions
 ORDER BY partition;
