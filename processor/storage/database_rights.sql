-- Rights that belong to a database and its roles, and not to the schema. A copy or a restore of the database has none of
-- them, so each `migrate` sets them again. The owner of the database may revoke TEMPORARY, and a superuser may revoke
-- the functions of large objects. The statements skip what the caller may not do.

-- guard --
DO $$
DECLARE
    role text;
    made record;
BEGIN
    FOREACH role IN ARRAY ARRAY['public', 'teller_api', 'teller_worker', 'teller_courier', 'teller_archive'] LOOP
        BEGIN
            IF has_database_privilege(role, current_database(), 'TEMPORARY') THEN
                EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM %s', current_database(), role);
            END IF;
            -- Where a temporary table can be made, a table of the schema is found first.
            IF role <> 'public' AND NOT EXISTS (SELECT FROM pg_db_role_setting s
                                                 WHERE s.setrole = role::regrole
                                                   AND s.setdatabase = (SELECT oid FROM pg_database
                                                                         WHERE datname = current_database())
                                                   AND 'search_path=public, pg_temp' = ANY(s.setconfig)) THEN
                EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = public, pg_temp', role,
                               current_database());
            END IF;
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;
        END;
    END LOOP;
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        FOR made IN SELECT oid::regprocedure AS function
                      FROM pg_proc
                     WHERE pronamespace = 'pg_catalog'::regnamespace
                       AND (proname LIKE 'lo\_%' OR proname IN ('loread', 'lowrite'))
                       AND has_function_privilege('public', oid, 'EXECUTE') LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', made.function);
        END LOOP;
    END IF;
END $$;

-- unguarded --
-- The things that a role can still make in this database.
SELECT made
  FROM (SELECT 'temporary tables' AS made, has_database_privilege(rolname, current_database(), 'TEMPORARY') AS allowed
          FROM pg_roles
         WHERE rolname IN ('teller_api', 'teller_worker', 'teller_courier', 'teller_archive')
         UNION ALL
        SELECT 'large objects', has_function_privilege(rolname, 'pg_catalog.lo_from_bytea(oid, bytea)', 'EXECUTE')
          FROM pg_roles
         WHERE rolname IN ('teller_api', 'teller_worker', 'teller_courier', 'teller_archive')) AS found
 WHERE allowed
 GROUP BY made
 ORDER BY made;
