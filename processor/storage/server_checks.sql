-- Statements about the server around the database: its load, its standbys, and transactions that were left open.

-- read_clock --
SELECT extract(epoch FROM clock_timestamp())::float8;

-- read_version --
SELECT current_setting('server_version_num')::integer, current_setting('server_version');

-- read_connections --
-- The connections that are free for roles without privileges, and the sessions of this database's Teller among the used.
SELECT current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true)::integer, 0)
           - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::integer,
       (SELECT count(*)
          FROM pg_stat_activity
         WHERE datname = current_database()
           AND application_name LIKE 'teller%%'
           AND pid <> pg_backend_pid())::integer,
       current_setting('max_connections')::integer;

-- read_connection_limits --
-- Limits of a role or of the database that are lower than what one process needs.
SELECT 'the role ' || rolname, rolconnlimit
  FROM pg_roles
 WHERE rolname = ANY(%(roles)s)
   AND rolconnlimit BETWEEN 0 AND %(needed)s - 1
 UNION ALL
SELECT 'the database ' || datname, datconnlimit
  FROM pg_database
 WHERE datname = current_database()
   AND datconnlimit BETWEEN 0 AND %(needed)s - 1;

-- read_standbys --
-- The synchronous standbys that commits wait for, and the number of connected standbys.
SELECT current_setting('synchronous_standby_names'),
       current_setting('synchronous_commit'),
       (SELECT count(*) FROM pg_stat_replication)::integer;

-- read_slots --
-- Replication slots without a consumer for which the server keeps its log for ever.
SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
  FROM pg_replication_slots
 WHERE NOT active
   AND current_setting('max_slot_wal_keep_size') = '-1'
   AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > %(kept_bytes)s
 ORDER BY 2 DESC;

-- read_open_transactions --
-- Transactions that have been open for long, prepared ones among them. While one is open, no table is cleaned, and no
-- low-water mark advances past the rows that it may still commit.
SELECT CASE WHEN pid IS NULL THEN 'the prepared transaction ' || name
            ELSE 'the session ' || pid || ' (' || concat_ws(', ', nullif(name, ''), usename) || ')' END,
       (extract(epoch FROM clock_timestamp()) - began)::integer
  FROM (SELECT pid, application_name AS name, usename::text, extract(epoch FROM xact_start) AS began
          FROM pg_stat_activity
         WHERE backend_type = 'client backend'
           AND pid <> pg_backend_pid()
         UNION ALL
        SELECT NULL, gid, owner::text, extract(epoch FROM prepared)
          FROM pg_prepared_xacts) AS opened
 WHERE began < extract(epoch FROM clock_timestamp()) - %(seconds)s
 ORDER BY 2 DESC
 LIMIT 5;

-- read_vacuum --
-- Whether tables are cleaned by themselves, and how much of the transaction numbers is used, in percent.
SELECT current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on',
       (100.0 * age(datfrozenxid) / 2000000000)::integer
  FROM pg_database
 WHERE datname = current_database();

-- read_without_identity --
-- Published tables whose changes a subscriber could not apply.
SELECT c.relname
  FROM pg_publication_tables p
  JOIN pg_class c ON c.relname = p.tablename AND c.relnamespace = p.schemaname::regnamespace
 WHERE c.relnamespace = current_schema()::regnamespace
   AND (c.relreplident = 'n'
        OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)))
 ORDER BY 1;

-- read_gateways_in_use --
-- The gateways that open resources name.
SELECT DISTINCT gateway FROM resources WHERE gateway IS NOT NULL AND closed_at IS NULL ORDER BY 1;
