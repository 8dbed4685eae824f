"""What the source's catalog says: the server's identity, its tables, their columns, and what is logged of their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import kwargs_row

from cdc_tracker.model import Lsn, Relation, parse_lsn, split_name, table_name
from cdc_tracker.sources.postgres.connection import connect, translated
from cdc_tracker.tables import Leaf, Table, TableColumn


class Switch(NamedTuple):
    """The end of a timeline at `lsn`, by a promotion or a restore."""

    timeline: int
    lsn: Lsn


@dataclass(frozen=True)
class ServerIdentity:
    """Which server this is, and its WAL's end. `history`: the ends of earlier timelines, oldest first."""

    system_id: str
    timeline: int
    wal_lsn: Lsn
    database: str
    version: int
    in_recovery: bool
    history: tuple[Switch, ...] = ()


# Every role may call pg_control_system(), so that an ordinary connection is enough. The name of the current WAL file has the
# present timeline; the control file may still have that of the last checkpoint.
_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system())::text,
       current_database(),
       current_setting('server_version_num')::int,
       pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text
"""


@translated()
def identify(connection: psycopg.Connection[Any]) -> ServerIdentity:
    """Which server this is. Past the first timeline it opens a replication connection to read the timelines' history."""
    [(system_id, database, version, in_recovery, timeline, lsn)] = connection.execute(_IDENTITY).fetchall()
    history = _history(connection, timeline) if timeline > 1 else ()
    return ServerIdentity(system_id, timeline, parse_lsn(lsn), database, version, in_recovery, history)


def _history(connection: psycopg.Connection[Any], timeline: int) -> tuple[Switch, ...]:
    parameters = {**connection.info.get_parameters(), "password": connection.info.password}
    with connect(make_conninfo("", **parameters), replication=True) as replication:
        result = replication.pgconn.exec_(f"TIMELINE_HISTORY {timeline}".encode())
        if result.ntuples != 1:
            raise psycopg.errors.error_from_result(result)
        content = (result.get_value(0, 1) or b"").decode()
    lines = (line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return tuple(Switch(int(words[0]), parse_lsn(words[1])) for words in lines)


# The index that identifies an UPDATE's old row, by PostgreSQL's rule. pg_get_replica_identity_index() returns the same, but locks
# the table, as pg_partition_tree() does: it would wait for an ALTER TABLE, and capture with it.
_IDENTITY_INDEX = """
SELECT x.indkey::int2[] AS columns, x.indnkeyatts AS keys FROM pg_index x
 WHERE x.indrelid = {c}.oid AND x.indislive AND x.indisvalid AND x.indisunique AND x.indimmediate AND x.indpred IS NULL
   AND CASE {c}.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END
"""
_HAS_KEY = f"({{c}}.relreplident = 'f' OR EXISTS ({_IDENTITY_INDEX}))"
# A chain of domains ends at its base type. The first domain of the chain that has a modifier gives the base type's.
_BASE = """
WITH RECURSIVE chain AS (
    SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory, t.typtypmod,
           a.atttypmod AS modifier, t.typnotnull AS not_null, ARRAY[t.oid] AS domains
     UNION ALL
    SELECT b.oid, b.typtype, b.typbasetype, b.typelem, b.typcategory, b.typtypmod,
           CASE WHEN chain.modifier < 0 THEN chain.typtypmod ELSE chain.modifier END, chain.not_null OR b.typnotnull,
           chain.domains || b.oid
      FROM chain JOIN pg_type b ON b.oid = chain.typbasetype WHERE chain.typtype = 'd')
SELECT chain.*, coalesce(nullif(e.typbasetype, 0), e.oid, 0) AS element
  FROM chain LEFT JOIN pg_type e ON chain.typcategory = 'A' AND e.oid = chain.typelem WHERE chain.typtype <> 'd'
"""
# indkey counts from 0; columns past indnkeyatts are only INCLUDEd. 1042 is char(n), 1043 varchar(n).
_COLUMNS = f"""
SELECT json_agg(json_build_object(
           'name', a.attname, 'type_oid', a.atttypid::int8, 'type_name', format_type(a.atttypid, a.atttypmod),
           'not_null', a.attnotnull OR b.not_null,
           'key', c.relreplident = 'f' OR coalesce(a.attnum = ANY (i.columns[0:i.keys - 1]), false),
           'primary_key', coalesce(a.attnum = ANY ((p.indkey::int2[])[0:p.indnkeyatts - 1]), false),
           'base_oid', b.oid::int8, 'base_name', format_type(b.oid, b.modifier), 'element_oid', b.element::int8,
           'length', CASE WHEN b.oid IN (1042, 1043) AND b.modifier > 4 THEN b.modifier - 4 END,
           'labels', (SELECT json_agg(l.enumlabel ORDER BY l.enumsortorder) FROM pg_enum l
                       WHERE l.enumtypid IN (b.oid, b.element)),
           'checks', (SELECT json_agg(pg_get_constraintdef(k.oid)) FROM pg_constraint k WHERE k.contype = 'c' AND k.convalidated
                         AND (k.conrelid = c.oid AND k.conkey = ARRAY[a.attnum] OR k.contypid = ANY (b.domains))),
           'references', (SELECT json_build_array(fn.nspname, f.relname, fa.attname)
                            FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid
                            JOIN pg_namespace fn ON fn.oid = f.relnamespace
                            JOIN pg_attribute fa ON fa.attrelid = f.oid AND fa.attnum = k.confkey[1]
                           WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conkey = ARRAY[a.attnum] ORDER BY k.oid LIMIT 1),
           'unique', EXISTS (SELECT FROM pg_index u WHERE u.indrelid = c.oid AND u.indisunique AND u.indisvalid
                                AND u.indpred IS NULL AND u.indnkeyatts = 1 AND u.indkey[0] = a.attnum),
           'generated', a.attgenerated
       ) ORDER BY a.attnum)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid CROSS JOIN LATERAL ({_BASE}) b
 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
"""
# An index on an expression says nothing about columns.
_UNIQUE_KEYS = """
SELECT json_agg((SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                  WHERE a.attrelid = u.indrelid AND a.attnum = ANY ((u.indkey::int2[])[0:u.indnkeyatts - 1]))
                ORDER BY u.indisprimary DESC, u.indexrelid)
  FROM pg_index u WHERE u.indrelid = c.oid AND u.indisunique AND u.indisvalid AND u.indpred IS NULL AND u.indexprs IS NULL
"""
_TREE = """
WITH RECURSIVE tree AS (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid AND c.relkind = 'p' AND NOT inhdetachpending
     UNION ALL
    SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.inhrelid WHERE NOT i.inhdetachpending)
"""
_LEAVES = f"""
{_TREE}
SELECT json_agg(json_build_object(
           'schema', ln.nspname, 'name', l.relname, 'kind', l.relkind, 'identity', l.relreplident,
           'has_key', {_HAS_KEY.format(c="l")}, 'publishable', pg_relation_is_publishable(l.oid),
           'key', coalesce((SELECT json_agg(a.attname) FROM pg_attribute a, ({_IDENTITY_INDEX.format(c="l")}) i
                      WHERE a.attrelid = l.oid AND a.attnum = ANY (i.columns[0:i.keys - 1])), '[]')
       ) ORDER BY ln.nspname, l.relname)
  FROM tree JOIN pg_class l ON l.oid = tree.inhrelid JOIN pg_namespace ln ON ln.oid = l.relnamespace
 WHERE l.relkind <> 'p'
"""
LACKS_IDENTITY = f"""
(c.relkind = 'r' AND NOT {_HAS_KEY.format(c="c")}) OR EXISTS (
    {_TREE} SELECT FROM tree JOIN pg_class l ON l.oid = tree.inhrelid WHERE l.relkind = 'r' AND NOT {_HAS_KEY.format(c="l")})
"""
"""SQL condition: the table `c`, or a partition of it, has no replica identity, so that it must not publish updates."""
_TABLES = f"""
SELECT c.oid::int8, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       pg_relation_is_publishable(c.oid) AS publishable, c.relreplident::text AS identity, {_HAS_KEY.format(c="c")} AS has_key,
       coalesce(p.indimmediate AND p.indisvalid, false) AS has_primary_key,
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) AS has_children, c.reltuples::int8 AS rows,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS can_select,
       pg_has_role(c.relowner, 'USAGE') AS owned, ARRAY[rn.nspname, r.relname]::text[] AS root,
       coalesce(({_COLUMNS}), '[]') AS columns, coalesce(({_LEAVES}), '[]') AS leaves,
       coalesce(({_UNIQUE_KEYS}), '[]') AS unique_keys
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = coalesce(CASE WHEN c.relispartition THEN pg_partition_root(c.oid) END, c.oid)
  JOIN pg_namespace rn ON rn.oid = r.relnamespace
  LEFT JOIN pg_index p ON p.indrelid = c.oid AND p.indisprimary
  LEFT JOIN LATERAL ({_IDENTITY_INDEX.format(c="c")}) i ON true
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND
"""
_ALLOWED = re.compile(
    r"""CHECK \(\(+(?:VALUE|"(?:[^"]|"")+"|[^\W\d][\w$]*)\)?(?:::[\w ]+)?"""
    r""" = ANY \(+ARRAY\[(.*?)\](?:::[\w \[\]]+)?\)+(?:::[\w \[\]]+\)+)?"""
)
_LITERAL = re.compile(r"'((?:[^']|'')*)'")


def tables(connection: psycopg.Connection[Any], names: Iterable[str]) -> dict[str, Table]:
    """Returns the named relations (`schema.table`) that exist: tables, partitions, views, foreign tables."""
    wanted = {split_name(name): name for name in names}
    query = f"{_TABLES} (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY 2, 3"
    found = _tables(connection, query, [[schema for schema, _ in wanted], [name for _, name in wanted]])
    return {wanted[table.schema, table.name]: table for table in found}


def user_tables(connection: psycopg.Connection[Any]) -> list[Table]:
    """All tables except partitions, which come with their roots, and those of extensions, the system and cdc-tracker."""
    query = f"""{_TABLES} c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'cdc_tracker') AND n.nspname NOT LIKE 'pg\\_%%'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY 2, 3"""
    return _tables(connection, query, [])


@translated()
def _tables(connection: psycopg.Connection[Any], query: str, parameters: Sequence[object]) -> list[Table]:
    with connection.cursor(row_factory=kwargs_row(_table)) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()


def _table(
    root: list[str], columns: list[dict[str, Any]], leaves: list[dict[str, Any]], unique_keys: list[list[str]], **simple: Any
) -> Table:
    return Table(
        root=(root[0], root[1]),
        columns=tuple(map(_column, columns)),
        leaves=msgspec.convert(leaves, tuple[Leaf, ...]),
        unique_keys=tuple(map(tuple, unique_keys)),
        **simple,
    )


def _column(described: dict[str, Any]) -> TableColumn:
    checks, target = described.pop("checks") or (), described.pop("references")
    found = next((found for check in checks if (found := _ALLOWED.fullmatch(check))), None)
    given = {
        **{name: value for name, value in described.items() if value is not None},
        "allowed": [literal.replace("''", "'") for literal in _LITERAL.findall(found[1])] if found else (),
        "references": (table_name(*target[:2]), target[2]) if target else None,
    }
    return msgspec.convert(given, TableColumn)


def relations(connection: psycopg.Connection[Any], names: Iterable[str]) -> dict[str, Relation]:
    """Returns the named tables that exist, as the stream will describe them, to check mappings against."""
    return {name: table.relation for name, table in tables(connection, names).items()}
