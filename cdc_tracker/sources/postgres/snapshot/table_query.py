"""The queries that read a table in the order of its key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from psycopg import sql

from cdc_tracker.errors import SourceError
from cdc_tracker.model import Relation
from cdc_tracker.sources.postgres.connection import Connection
from cdc_tracker.sources.postgres.snapshot.key import Key, key_of, readable, source_of
from cdc_tracker.sources.postgres.snapshot.rows import Description, cells
from cdc_tracker.tables import Table

Order = Literal["asc", "desc"]

_SIGNS = {"asc": (">", "<=", "ASC"), "desc": ("<", ">=", "DESC")}  # past a key, up to a key


@dataclass(frozen=True)
class TableQuery:
    """A table, its key and the columns to read, as the catalog has them.

    `columns` are in the table's order; `types` are the key's, as SQL; `relation` is a Description as JSON; `fingerprint` changes
    with the table's columns and unique indexes.
    """

    table: Table
    key: Key
    types: tuple[str, ...]
    columns: tuple[str, ...]
    relation: bytes
    fingerprint: str

    def select(
        self,
        columns: Sequence[str],
        order: Order,
        after: Sequence[str] | None,
        upto: Sequence[str] | None = None,
        filters: Sequence[sql.Composable] = (),
    ) -> sql.Composed:
        """A SELECT of the rows past the key `after` and not past `upto`, in key order."""
        past, until, direction = _SIGNS[order]
        limits = [(past, after), (until, upto)]
        wanted = [self._compared(sign, key) for sign, key in limits if key is not None] + list(filters)
        return sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            source_of(self.table),
            sql.SQL(" AND ").join(wanted) if wanted else sql.SQL("true"),
            sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(direction)) for name in self.key),
        )

    def _compared(self, sign: str, key: Sequence[str]) -> sql.Composable:
        """`("a", "b") > ('1'::integer, 'x'::text)`: compared in the index's order, by the columns' own collation."""
        names = sql.SQL(", ").join(map(sql.Identifier, self.key))
        values = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(type_name))  # the type as the catalog writes it
            for text, type_name in zip(key, self.types, strict=True)
        )
        return sql.SQL("({}) {} ({})").format(names, sql.SQL(sign), values)

    def key_of(self, line: bytes | memoryview) -> tuple[str, ...]:
        """The key of a line that was read."""
        row = cells(line)
        return tuple(str(row[self.columns.index(column)]) for column in self.key)


def table_query(
    connection: Connection, name: str, columns: Collection[str], never_capture: Collection[str], fingerprint: str
) -> TableQuery:
    """The query of the table `name`: the key's columns and those of `columns` that exist.

    Raises SourceError if the table cannot be read.
    """
    table = readable(connection, name)
    key = key_of(connection, table)
    if excluded := set(never_capture) & set(key):
        raise SourceError(
            f"{name} can only be read by its key, but never_capture excludes {', '.join(sorted(excluded))}",
            hint="a backfill would store the key's values",
        )
    wanted = (set(columns) - set(never_capture)) | set(key)
    found = tuple(column for column in table.relation.columns if column.name in wanted)
    types = {column.name: column.type_name for column in table.columns}
    return TableQuery(
        table,
        key,
        tuple(types[column] for column in key),
        tuple(column.name for column in found),
        msgspec.json.encode(Description.of(Relation(table.schema, table.name, found, table.relation.identity))),
        fingerprint,
    )
