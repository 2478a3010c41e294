-- The settings of a session that Teller's promises rest on, and those of the server.

-- prefer_indexes --
-- Each read of the API has an index. Before a large table has statistics, the planner would rather read more of it.
SELECT set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false);

-- begin_session --
-- Sets what a session may set, where it belongs to one connection. Behind a pooler another connection may get it next,
-- so there it is only read. Returns whether the session is our own, and each setting with the value that it must have.
WITH session AS MATERIALIZED (
    SELECT pg_backend_pid() = %(backend_pid)s AND NOT %(is_pooled)s AS is_own
), needed (is_fixed, name, value) AS (
    VALUES (true,  'fsync',                         'on'),
           (true,  'full_page_writes',              'on'),
           (true,  'server_encoding',               'UTF8'),
           (true,  'session_replication_role',      'origin'),
           (false, 'timezone',                      'UTC'),
           (false, 'intervalstyle',                 'postgres'),
           (false, 'default_transaction_isolation', 'read committed'),
           (false, 'standard_conforming_strings',   'on'),
           (false, 'datestyle', CASE WHEN current_setting('datestyle') LIKE 'ISO%%' THEN current_setting('datestyle')
                                     ELSE 'ISO, MDY' END),
           -- A stronger one, or the choice of the primary alone, stays.
           (false, 'synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                                         ELSE current_setting('synchronous_commit') END),
           -- The end of a wait for a standby is a warning.
           (false, 'client_min_messages', CASE WHEN current_setting('client_min_messages') IN ('error', 'fatal', 'panic')
                                               THEN 'warning' ELSE current_setting('client_min_messages') END)
)
SELECT is_own, is_fixed, name, value,
       CASE WHEN current_setting(name) <> value AND is_own AND NOT is_fixed THEN set_config(name, value, false)
            ELSE current_setting(name)
       END,
       CASE WHEN is_own THEN set_config('statement_timeout', %(statement_timeout_ms)s::text, false) END
  FROM session
 CROSS JOIN needed;

-- waits_for_standby --
-- Whether the commit of a session waits for a synchronous standby. A session behind a pooler is known by its name alone.
SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE datname = current_database()
                  AND usename = current_user
                  AND wait_event = 'SyncRep'
                  AND (pid = %(backend_pid)s OR (%(is_pooled)s AND application_name = %(application_name)s)));
