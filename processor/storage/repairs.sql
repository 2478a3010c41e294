-- Repairs of a restored or moved database: settings that are in no dump of it.

-- read_role_settings --
-- The settings of each of our roles in this database, as `name=value`. Roles that do not exist are left out.
SELECT r.rolname, coalesce(s.setconfig, '{}')
  FROM pg_roles r
  LEFT JOIN pg_db_role_setting s
         ON s.setrole = r.oid
        AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
 WHERE r.rolname = ANY(%(roles)s)
 ORDER BY r.rolname;

-- read_database --
SELECT current_database();
