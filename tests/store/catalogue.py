"""
The catalogue of a database as text, so that two databases can be compared line by line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from processor.storage.connections import Connection

#: Everything that a schema is made of. Each query returns lines that name their object.
_QUERIES: Final = {
    "relations": """
        SELECT format('%s %s %s options=%s owner=%s', relkind, relname, relpersistence, reloptions,
                      relowner::regrole)
          FROM pg_class
         WHERE relnamespace = 'public'::regnamespace""",
    "columns": """
        SELECT format('%s.%s %s %s not_null=%s default=%s identity=%s generated=%s collation=%s storage=%s',
                      relname, rank() OVER (PARTITION BY c.oid ORDER BY attnum), attname,
                      format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid, true),
                      attidentity, attgenerated, attcollation::regcollation, attstorage)
          FROM pg_class c
          JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
          LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
         WHERE relnamespace = 'public'::regnamespace""",
    "constraints": """
        SELECT format('%s %s %s valid=%s', conrelid::regclass, conname, pg_get_constraintdef(oid, true), convalidated)
          FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace""",
    "indexes": """
        SELECT format('%s valid=%s', pg_get_indexdef(indexrelid, 0, true), indisvalid)
          FROM pg_index
          JOIN pg_class ON pg_class.oid = indexrelid
         WHERE relnamespace = 'public'::regnamespace""",
    "sequences": """
        SELECT format('%s %s start=%s by=%s %s..%s cache=%s', seqrelid::regclass, seqtypid::regtype, seqstart,
                      seqincrement, seqmin, seqmax, seqcache)
          FROM pg_sequence""",
    "triggers": """
        SELECT format('%s enabled=%s', pg_get_triggerdef(oid, true), tgenabled)
          FROM pg_trigger
         WHERE NOT tgisinternal""",
    "functions": """
        SELECT pg_get_functiondef(oid)
          FROM pg_proc
         WHERE pronamespace = 'public'::regnamespace""",
    "types": """
        SELECT format('%s %s', typtype, typname)
          FROM pg_type
         WHERE typnamespace = 'public'::regnamespace AND typelem = 0""",
    "comments": """
        SELECT format('%s %s: %s', object.type, object.identity, description)
          FROM pg_description, pg_identify_object(classoid, objoid, objsubid) AS object
         WHERE object.schema = 'public' OR object.identity LIKE 'public.%'""",
    "grants": """
        SELECT format('%s %s %s to %s by %s grantable=%s', kind, name, privilege_type,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, grantor::regrole,
                      is_grantable)
          FROM (SELECT 'relation', relname::text, coalesce(relacl, acldefault(
                           CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
                  FROM pg_class
                 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S', 'v', 'm', 'p', 'f')
                 UNION ALL
                SELECT 'column', attrelid::regclass || '.' || attname, attacl
                  FROM pg_attribute
                  JOIN pg_class ON pg_class.oid = attrelid
                 WHERE relnamespace = 'public'::regnamespace
                   AND NOT attisdropped  -- PostgreSQL 15 keeps the rights on a dropped column
                 UNION ALL
                SELECT 'function', proname, coalesce(proacl, acldefault('f', proowner))
                  FROM pg_proc
                 WHERE pronamespace = 'public'::regnamespace
                 UNION ALL
                SELECT 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner))
                  FROM pg_namespace
                 WHERE nspname = 'public') AS object (kind, name, acl),
               aclexplode(acl)""",
    "default grants": "SELECT defaclacl::text FROM pg_default_acl",
}


def read(connection: Connection) -> list[str]:
    """
    Return one line for each object, and each property of one, in the schema `public`.
    """
    return [
        f"{kind}: {line}"
        for kind, query in _QUERIES.items()
        for line in sorted(line for (line,) in connection.execute(query.encode()).fetchall())
    ]
