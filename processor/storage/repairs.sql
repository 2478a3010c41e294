-- Repairs of a restored or moved database: rights, settings, sequences and low-water marks.

-- read_rights --
-- The roles that exist, and all rights on the tables of this schema, as one value.
SELECT md5(concat_ws(' ',
           (SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname = ANY(%(roles)s)),
           (SELECT string_agg(nspacl::text, ' ') FROM pg_namespace WHERE nspname = current_schema()),
           (SELECT string_agg(concat_ws(' ', c.oid, c.relacl::text), ' ' ORDER BY c.oid)
              FROM pg_class c
             WHERE c.relnamespace = current_schema()::regnamespace),
           (SELECT string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attacl::text), ' ' ORDER BY a.attrelid, a.attnum)
              FROM pg_attribute a
              JOIN pg_class c ON c.oid = a.attrelid
             WHERE c.relnamespace = current_schema()::regnamespace
               AND a.attacl IS NOT NULL)));

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

-- read_sequences --
-- The columns of this schema that number their rows, with the sequence of each.
SELECT c.relname, a.attname, pg_get_serial_sequence(quote_ident(c.relname), a.attname)
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = current_schema()::regnamespace
   AND a.attidentity <> ''
 ORDER BY c.relname;

-- read_greatest_mark --
SELECT coalesce(max(greatest(low_water, next_low_water)), 0) FROM partitions;

-- lock_inbox --
-- Nothing enters meanwhile.
LOCK TABLE inbox IN SHARE ROW EXCLUSIVE MODE;

-- read_wrong_marks --
-- Partitions with rows below their mark, or with a mark that waits for a transaction of another cluster. Each is locked
-- against batches.
SELECT p.id, pg_advisory_xact_lock(%(lock_class)s, p.id)
  FROM (SELECT id
          FROM partitions p
         WHERE next_xid > pg_snapshot_xmax(pg_current_snapshot())::text::bigint
            OR EXISTS (SELECT FROM inbox WHERE partition = p.id AND seq <= p.low_water)
         ORDER BY id) p;

-- read_rows_below --
-- Rows below the mark of their partition, in the order of their acceptance. A request with legs has its home row here,
-- wherever one of its rows lies below.
SELECT DISTINCT home.partition, home.seq, home.created_at
  FROM inbox i
  JOIN partitions p ON p.id = i.partition
  JOIN inbox home ON home.request_id = i.request_id AND home.verb = i.verb AND home.leg = 0
 WHERE p.id = ANY(%(partitions)s::smallint[])
   AND i.seq <= p.low_water
 ORDER BY home.created_at, home.seq;

-- renumber --
-- Gives a row a new number. A request with legs keeps one number in all partitions: the rows of later legs are written
-- again, with that of the home row.
WITH named AS MATERIALIZED (
    SELECT request_id, verb FROM inbox WHERE partition = %(partition)s AND seq = %(seq)s AND leg = 0
), renumbered AS (
    UPDATE inbox SET seq = DEFAULT WHERE partition = %(partition)s AND seq = %(seq)s AND leg = 0
    RETURNING seq, request_id, verb
), gone AS (
    DELETE FROM inbox i USING named
     WHERE i.request_id = named.request_id AND i.verb = named.verb AND i.leg > 0
    RETURNING i.partition, i.request_id, i.verb, i.leg, i.payload
)
SELECT r.seq, g.partition, g.request_id, g.verb, g.leg, g.payload
  FROM renumbered r
  JOIN gone g USING (request_id, verb);

-- place_again --
INSERT INTO inbox (seq, partition, request_id, verb, leg, payload) OVERRIDING SYSTEM VALUE
VALUES (%s, %s, %s, %s, %s, %s);

-- reset_marks --
UPDATE partitions
   SET low_water = 0, next_low_water = 0, next_xid = 0
 WHERE id = ANY(%(partitions)s::smallint[]);

-- may_read_cluster --
SELECT has_function_privilege('pg_control_system()', 'EXECUTE');

-- read_place --
-- The cluster and database that the id was made for, and those of this connection. A promoted standby has the same.
SELECT i.made_in, c.system_identifier || '/' || d.oid
  FROM installation i, pg_control_system() c, pg_database d
 WHERE d.datname = current_database();

-- set_place --
UPDATE installation SET made_in = %(here)s;

-- set_place_and_id --
UPDATE installation SET made_in = %(here)s, id = gen_random_uuid();
