"""The key by which a table is read, and how much there is to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from cdc_tracker.errors import SourceError
from cdc_tracker.model import table_name
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import Connection, translated
from cdc_tracker.sources.postgres.faults import translate
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.sources.postgres.snapshot.conditions import Condition, Where, shown, texts
from cdc_tracker.tables import Table

Key: TypeAlias = tuple[str, ...]
"""Columns that identify one row and are never NULL: those of the primary key, else of a unique index."""


@dataclass(frozen=True)
class Extent:
    """The planner's estimate of the rows to read."""

    rows: int
    bytes: int


_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
# Only unique indexes that serve a comparison of their columns and contain every row.
_KEYS = """
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.n <= i.indnkeyatts ORDER BY k.n)
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
 WHERE i.indrelid = %s::int8::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
   AND m.amname = 'btree'
   AND NOT EXISTS (
       SELECT FROM unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
                   WITH ORDINALITY k (attnum, class, collation_, n)
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
         LEFT JOIN pg_opclass o ON o.oid = k.class
        WHERE k.n <= i.indnkeyatts AND (NOT a.attnotnull OR NOT o.opcdefault OR k.collation_ <> a.attcollation))
 ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname LIMIT 1
"""


def usable_key(connection: Connection, table: str) -> Key:
    """The key to read `schema.table` by. Raises SourceError if the table cannot be read, with the reason."""
    return key_of(connection, readable(connection, table))


def readable(connection: Connection, table: str) -> Table:
    """The catalog's description of a table whose rows can be read. Raises SourceError for any other."""
    found = catalog.tables(connection, [table]).get(table)
    if found is None:
        raise SourceError(f"there is no table {table}", hint="correct the mapping's `table`: `schema.table`, as in the catalog")
    if found.kind in _KINDS:
        raise SourceError(
            f"{table} is {_KINDS[found.kind]}: its rows are not the ones that the stream reports",
            hint="a backfill reads the table that the mapping names; map the underlying table",
        )
    if found.root != (found.schema, found.name):
        root = table_name(*found.root)
        raise SourceError(f"{table} is a partition of {root}", hint=f"map the root, {root}: it is read with all its partitions")
    _check_rights(connection, found)
    return found


@translated()
def _check_rights(connection: Connection, table: Table) -> None:
    """Raises SourceError, with the statements for the table's owner, if the role may not read the whole table."""
    user, schema, name = quoted(connection.info.user), quoted(table.schema), quoted(table.schema, table.name)
    if not table.can_select:
        raise SourceError(
            f"the role {connection.info.user} may not read {table.table}: a backfill needs that right, the stream does not",
            hint=f"GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {name} TO {user};",
        )
    row = connection.execute("SELECT row_security_active(%s::int8::oid)", [table.oid]).fetchone()
    if row and row[0]:
        raise SourceError(
            f"{table.table} has row-level security, which may hide rows from the role {connection.info.user}",
            hint=f"ALTER ROLE {user} BYPASSRLS; as a superuser",
        )


@translated()
def key_of(connection: Connection, table: Table) -> Key:
    """The key to read the table by. Raises SourceError if it has none that serves."""
    row = connection.execute(_KEYS, [table.oid]).fetchone()
    if row is None:
        raise SourceError(
            f"{table.table} has no key to read it by",
            hint="a backfill needs a primary key, or a unique index on NOT NULL columns without expressions or WHERE, with the "
            "columns' own collation and default operator class",
        )
    return tuple(row[0])


def source_of(table: Table) -> sql.Composable:
    """The table in FROM: without inheritance children, whose rows the stream reports under their own names."""
    name = sql.Identifier(table.schema, table.name)
    return name if table.kind == "p" else sql.SQL("ONLY {}").format(name)


def filters(where: Where, conditions: Sequence[Condition]) -> list[sql.Composable]:
    """Conditions to be joined by AND. The newline closes a comment at the end of a user's text."""
    own: list[sql.Composable] = [sql.SQL("({}\n)").format(sql.SQL(_unchecked(text))) for text in texts(where)]
    return [*own, *(sql.SQL("({})").format(condition) for condition in conditions)]


def _unchecked(text: str) -> Any:
    return text  # sql.SQL wants a LiteralString, which a user's SQL cannot be; without format() braces have no meaning


def extent(connection: Connection, table: str, where: Where = None, conditions: Sequence[Condition] = ()) -> Extent:
    """The planner's estimate; reads nothing. Raises SourceError if PostgreSQL refuses a condition."""
    found = readable(connection, table)
    for text in texts(where):
        _explain(connection, found, filters(text, ()), f"the condition {shown(text)}")
    plan = _explain(connection, found, filters(where, conditions), "the range")
    rows = int(plan["Plan Rows"])
    return Extent(rows, rows * int(plan["Plan Width"]))


def refusal(error: psycopg.Error, what: str) -> SourceError | None:
    """The error for a condition that fails every time: it does not fit the table or its values, or it would write. Else None."""
    state = error.sqlstate or ""
    if state == "42501" or (state[:2] not in {"0A", "21", "22", "42"} and state not in {"25001", "25006"}):
        return None
    reason = error.diag.message_primary or str(error)
    return SourceError(f"{what}: PostgreSQL says: {reason}", hint="correct the condition: it is SQL as after WHERE")


def _explain(connection: Connection, table: Table, conditions: Sequence[Condition], what: str) -> dict[str, Any]:
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT * FROM {} WHERE {}").format(
        source_of(table), sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")
    )
    try:
        connection.execute("BEGIN READ ONLY")
        try:
            # `binary` uses the extended protocol, in which PostgreSQL accepts one statement only
            [(plan,)] = connection.execute(query, binary=True).fetchall()
        finally:
            connection.execute("ROLLBACK")
    except psycopg.Error as error:
        raise refusal(error, f"{what} does not fit {table.table}") or translate(error) from error
    found: dict[str, Any] = plan[0]["Plan"]
    return found
