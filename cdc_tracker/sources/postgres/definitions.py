"""The statements that make a database's schema again, without its rows, by the catalog alone: for trying a migration.

pg_dump needs the right to read every table; the role that replicates has none. What is left out: roles and grants, policies,
aggregates, foreign tables, text search, and other things that neither mappings nor most migrations touch.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from cdc_tracker.sources.postgres.connection import Connection, translated

# Each row: its place in the order, a name to sort by, the statement. Names are written with their schema (search_path is empty).
_OWN = """
own AS (SELECT oid, nspname FROM pg_namespace
         WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'cdc_tracker') AND nspname NOT LIKE 'pg\\_%'),
part AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
tables AS (SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name, i.inhparent::regclass::text AS parent
             FROM pg_class c JOIN own n ON n.oid = c.relnamespace
             LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND NOT i.inhdetachpending AND i.inhseqno = 1
            WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
              AND ('pg_class'::regclass, c.oid) NOT IN (SELECT * FROM part))
"""
_COLUMN = """
format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
    || CASE WHEN a.attgenerated <> '' THEN
                format(' GENERATED ALWAYS AS (%s) %s', pg_get_expr(d.adbin, d.adrelid),
                       CASE a.attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END)
            WHEN a.attidentity <> '' AND NOT c.relispartition THEN
                format(' GENERATED %s AS IDENTITY', CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END)
            ELSE coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') END
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
"""
_COLUMNS = f"""
coalesce((SELECT string_agg({_COLUMN}, ', ' ORDER BY a.attnum) FROM pg_attribute a
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '')
"""
_STATEMENTS = f"""
WITH {_OWN}
SELECT 1, nspname::text, format('CREATE SCHEMA IF NOT EXISTS %I', nspname) FROM own
UNION ALL
SELECT 2, extname, format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I', extname, n.nspname)
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname <> 'plpgsql'
UNION ALL
SELECT 3, format('%I.%I', n.nspname, t.typname), CASE t.typtype
       WHEN 'e' THEN format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname,
                            (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum
                              WHERE enumtypid = t.oid))
       WHEN 'c' THEN format('CREATE TYPE %I.%I AS (%s)', n.nspname, t.typname,
                            (SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
                               FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped))
       ELSE format('CREATE DOMAIN %I.%I AS %s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod))
            || coalesce(' DEFAULT ' || t.typdefault, '') || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
            || coalesce((SELECT string_agg(format(' CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), '' ORDER BY conname)
                           FROM pg_constraint WHERE contypid = t.oid AND contype = 'c'), '') END
  FROM pg_type t JOIN own n ON n.oid = t.typnamespace LEFT JOIN pg_class r ON r.oid = t.typrelid
 WHERE (t.typtype IN ('e', 'd') OR t.typtype = 'c' AND r.relkind = 'c')
   AND ('pg_type'::regclass, t.oid) NOT IN (SELECT * FROM part)
UNION ALL
SELECT 4, c.oid::regclass::text, format('CREATE SEQUENCE %s', c.oid::regclass)
  FROM pg_class c JOIN own n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND ('pg_class'::regclass, c.oid) NOT IN (SELECT * FROM part)
   AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'i')
UNION ALL
SELECT 5, name, format('CREATE %sTABLE %s (%s)%s', CASE relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, name, {_COLUMNS},
                       coalesce(' PARTITION BY ' || pg_get_partkeydef(c.oid), '')) FROM tables c
UNION ALL
SELECT 6, name, CASE WHEN relispartition THEN
                    format('ALTER TABLE %s ATTACH PARTITION %s %s', parent, name, pg_get_expr(relpartbound, c.oid))
                ELSE format('ALTER TABLE %s INHERIT %s', name, parent) END FROM tables c WHERE parent IS NOT NULL
UNION ALL
SELECT 7, p.proname, pg_get_functiondef(p.oid) FROM pg_proc p JOIN own n ON n.oid = p.pronamespace
 WHERE p.prokind IN ('f', 'p') AND ('pg_proc'::regclass, p.oid) NOT IN (SELECT * FROM part)
UNION ALL
SELECT CASE contype WHEN 'f' THEN 9 ELSE 8 END, c.name || ' ' || k.conname,
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.name, k.conname, pg_get_constraintdef(k.oid))
  FROM pg_constraint k JOIN tables c ON c.oid = k.conrelid
 WHERE contype IN ('p', 'u', 'c', 'x', 'f') AND conislocal AND conparentid = 0
UNION ALL
SELECT 10, i.relname, regexp_replace(pg_get_indexdef(i.oid), ' ON ONLY ', ' ON ')
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN tables c ON c.oid = x.indrelid
 WHERE NOT i.relispartition AND x.indisvalid
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.oid AND contype IN ('p', 'u', 'x'))
UNION ALL
SELECT 11, v.oid::regclass::text,
       format(CASE relkind WHEN 'v' THEN 'CREATE VIEW %s AS %s' ELSE 'CREATE MATERIALIZED VIEW %s AS %s WITH NO DATA' END,
              v.oid::regclass, rtrim(pg_get_viewdef(v.oid), ';'))
  FROM pg_class v JOIN own n ON n.oid = v.relnamespace
 WHERE relkind IN ('v', 'm') AND ('pg_class'::regclass, v.oid) NOT IN (SELECT * FROM part)
UNION ALL
SELECT 12, c.name || ' ' || t.tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN tables c ON c.oid = t.tgrelid
 WHERE NOT tgisinternal AND tgparentid = 0
UNION ALL
SELECT 13, name, format('ALTER TABLE %s REPLICA IDENTITY %s', name, CASE relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
       ELSE 'USING INDEX ' || (SELECT quote_ident(i.relname) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                                WHERE x.indrelid = c.oid AND x.indisreplident) END)
  FROM tables c WHERE relreplident IN ('f', 'n')
     OR relreplident = 'i' AND EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisreplident)
ORDER BY 1, 2, 3
"""


@translated()
def statements(connection: Connection) -> list[str]:
    """The statements, in a stable order in which nearly all of them succeed; `rebuild` deals with the others."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path TO ''")
        return [statement for *_, statement in connection.execute(_STATEMENTS.encode()).fetchall()]


def rebuild(connection: Connection, given: Iterable[str]) -> list[str]:
    """Runs the statements in an empty database. Returns why each of those that fail does so.

    One that fails is tried again after the others, as long as any succeeds: views and functions depend on each other.
    """
    connection.execute("SET search_path TO ''; SET check_function_bodies TO off")
    left = list(given)
    while True:
        failed = {statement: why for statement in left if (why := _failure(connection, statement))}
        if len(failed) == len(left):
            connection.execute("RESET search_path; RESET check_function_bodies")
            return list(failed.values())
        left = list(failed)


def _failure(connection: Connection, statement: str) -> str:
    """Runs the statement; why it failed, else empty."""
    try:
        connection.execute(statement.encode())
    except psycopg.Error as error:
        return f"{error.diag.message_primary}: {' '.join(statement.split())[:100]}"
    return ""
