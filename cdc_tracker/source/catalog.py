"""What the source's catalog says: which server it is, its tables, what their rows look like and what is logged of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import kwargs_row

from cdc_tracker.model import Column, Lsn, Relation, parse_lsn
from cdc_tracker.source.connection import connect, translated
from cdc_tracker.source.faults import translate

__all__ = [
    "Identity",
    "Leaf",
    "Switch",
    "Table",
    "TableColumn",
    "connect",
    "identify",
    "relations",
    "root_of",
    "split_name",
    "tables",
    "translate",
    "translated",
    "user_tables",
]


class Switch(NamedTuple):
    """A timeline ended at `lsn`, where a standby was promoted or a restore began to write."""

    timeline: int
    lsn: Lsn


@dataclass(frozen=True)
class Identity:
    """Which server this is and how far its WAL goes. `history`: the ends of the earlier timelines, oldest first."""

    system_id: str
    timeline: int
    wal_lsn: Lsn
    database: str
    version: int
    in_recovery: bool
    history: tuple[Switch, ...] = ()


# pg_control_system() may be called by every role, so that an ordinary connection serves; the timeline in the name of the WAL file
# being written is the present one, where the control file still has that of the last checkpoint.
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
def identify(connection: psycopg.Connection[Any]) -> Identity:
    """Which server this is. Past the first timeline it opens a replication connection for the timelines' history."""
    [(system_id, database, version, in_recovery, timeline, lsn)] = connection.execute(_IDENTITY).fetchall()
    history = _history(connection, timeline) if timeline > 1 else ()
    return Identity(system_id, timeline, parse_lsn(lsn), database, version, in_recovery, history)


def _history(connection: psycopg.Connection[Any], timeline: int) -> tuple[Switch, ...]:
    parameters = {**connection.info.get_parameters(), "password": connection.info.password}
    with connect(make_conninfo("", **parameters), replication=True) as replication:
        result = replication.pgconn.exec_(f"TIMELINE_HISTORY {timeline}".encode())
        if result.ntuples != 1:
            raise psycopg.errors.error_from_result(result)
        content = (result.get_value(0, 1) or b"").decode()
    lines = (line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return tuple(Switch(int(words[0]), parse_lsn(words[1])) for words in lines)


class TableColumn(NamedTuple):
    """`labels`: the values that an enum or a `CHECK (… IN (…))` allows. `toastable`: long values are stored apart."""

    name: str
    type_oid: int
    type_name: str
    not_null: bool
    key: bool  # part of the replica identity
    primary_key: bool
    generated: bool
    toastable: bool
    labels: tuple[str, ...] = ()


class Leaf(NamedTuple):
    """A partition that holds rows. `usable`: an update or delete of a published row will not fail for want of an identity."""

    schema: str
    name: str
    identity: str
    usable: bool


@dataclass(frozen=True)
class Table:
    """One table as it is now. A partitioned one has `kind` p and its leaves; a partition has its root's name in `root`.

    `identity` is PostgreSQL's relreplident. `logged` is the least that is logged of an old row in the table or any leaf of it:
    n where there is nothing, and where the default identity finds no primary key.
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    identity: str
    has_key: bool  # the index that the identity relies on exists (d, i); true for f
    rows: int  # the planner's estimate, -1 where it has none
    can_select: bool
    owned: bool  # by a role that the session is a member of
    root: tuple[str, str]
    columns: tuple[TableColumn, ...]
    leaves: tuple[Leaf, ...] = ()

    @property
    def table(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def usable(self) -> bool:
        """Published with updates and deletes, those statements go on working."""
        return all(leaf.usable for leaf in self.leaves) if self.kind == "p" else self.has_key

    @property
    def logged(self) -> str:
        found = [self.identity if self.has_key else "n", *(leaf.identity if leaf.usable else "n" for leaf in self.leaves)]
        return min(found, key="ndif".index)

    @property
    def relation(self) -> Relation:
        """As the stream describes it, with `logged` as its identity."""
        columns = tuple(Column(column.name, column.type_oid, column.key) for column in self.columns)
        return Relation(self.schema, self.name, columns, self.logged)


_COLUMNS = """
SELECT json_agg(json_build_object(
           'name', a.attname, 'type_oid', a.atttypid::int8, 'type_name', format_type(a.atttypid, a.atttypmod),
           'not_null', a.attnotnull,
           'key', CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE coalesce(a.attnum = ANY (i.indkey), false) END,
           'primary_key', coalesce(a.attnum = ANY (p.indkey), false),
           'generated', a.attgenerated <> '',
           'toastable', t.typlen = -1 AND a.attstorage IN ('x', 'e'),
           'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e
                       WHERE e.enumtypid IN (t.oid, t.typbasetype)),
           'checks', (SELECT json_agg(pg_get_constraintdef(k.oid)) FROM pg_constraint k
                       WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.conkey = ARRAY[a.attnum])
       ) ORDER BY a.attnum)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
"""
_USABLE = """
CASE {c}.relreplident WHEN 'f' THEN true WHEN 'n' THEN false
     ELSE EXISTS (SELECT FROM pg_index x WHERE x.indrelid = {c}.oid AND x.indisvalid
                     AND CASE {c}.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END) END
"""
_LEAVES = f"""
SELECT json_agg(json_build_array(ln.nspname, l.relname, l.relreplident, {_USABLE.format(c="l")}) ORDER BY ln.nspname, l.relname)
  FROM pg_partition_tree(c.oid) part JOIN pg_class l ON l.oid = part.relid JOIN pg_namespace ln ON ln.oid = l.relnamespace
 WHERE part.isleaf AND c.relkind = 'p' AND l.oid <> c.oid
"""
_TABLES = f"""
SELECT c.oid::int8, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       c.relreplident::text AS identity, {_USABLE.format(c="c")} AS has_key, c.reltuples::int8 AS rows,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS can_select,
       pg_has_role(c.relowner, 'USAGE') AS owned, ARRAY[rn.nspname, r.relname]::text[] AS root,
       coalesce(({_COLUMNS}), '[]') AS columns, coalesce(({_LEAVES}), '[]') AS leaves
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = coalesce(CASE WHEN c.relispartition THEN pg_partition_root(c.oid) END, c.oid)
  JOIN pg_namespace rn ON rn.oid = r.relnamespace
  LEFT JOIN pg_index p ON p.indrelid = c.oid AND p.indisprimary
  LEFT JOIN pg_index i ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND
"""
_ALLOWED = re.compile(r"= ANY \(+ARRAY\[")
_LITERAL = re.compile(r"'((?:[^']|'')*)'")


def split_name(table: str) -> tuple[str, str]:
    """`shop.orders` → schema and name; without a dot it is in `public`."""
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else ("public", schema)


def tables(connection: psycopg.Connection[Any], names: Iterable[str]) -> dict[str, Table]:
    """Those of the named tables (`schema.table`) that exist, whatever they are: table, partition, view, foreign table."""
    wanted = {split_name(name): name for name in names}
    query = f"{_TABLES} (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY 2, 3"
    found = _tables(connection, query, [[schema for schema, _ in wanted], [name for _, name in wanted]])
    return {wanted[table.schema, table.name]: table for table in found}


def user_tables(connection: psycopg.Connection[Any]) -> list[Table]:
    """Every table that an application may have made: partitions come with their root; extensions' and our own are left out."""
    query = f"""{_TABLES} c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'cdc_tracker') AND n.nspname NOT LIKE 'pg\\_%%'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY 2, 3"""
    return _tables(connection, query, [])


@translated()
def _tables(connection: psycopg.Connection[Any], query: str, parameters: Sequence[object]) -> list[Table]:
    with connection.cursor(row_factory=kwargs_row(_table)) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()


def _table(root: list[str], columns: list[dict[str, Any]], leaves: list[list[Any]], **simple: Any) -> Table:
    return Table(root=(root[0], root[1]), columns=_columns(columns), leaves=tuple(Leaf(*leaf) for leaf in leaves), **simple)


def _columns(described: list[dict[str, Any]]) -> tuple[TableColumn, ...]:
    return tuple(
        TableColumn(**column, labels=tuple(column_labels))
        for column in described
        for column_labels in [_labels(column.pop("labels"), column.pop("checks"))]
    )


def _labels(enum_labels: list[str] | None, checks: list[str] | None) -> list[str]:
    if enum_labels:
        return enum_labels
    for check in checks or ():
        if _ALLOWED.search(check):
            return [literal.replace("''", "'") for literal in _LITERAL.findall(check)]
    return []


def relations(connection: psycopg.Connection[Any], names: Iterable[str]) -> dict[str, Relation]:
    """Those of the named tables that exist, as the stream will describe them: what mappings are checked against."""
    return {name: table.relation for name, table in tables(connection, names).items()}


@translated()
def root_of(connection: psycopg.Connection[Any], schema: str, table: str) -> tuple[str, str]:
    """The root of the partition tree that the table is in; the table itself where it is in none, or is gone."""
    query = """
        SELECT rn.nspname, r.relname
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class r ON r.oid = pg_partition_root(c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace
         WHERE n.nspname = %s AND c.relname = %s AND c.relispartition"""
    row = connection.execute(query, [schema, table]).fetchone()
    return (row[0], row[1]) if row else (schema, table)
