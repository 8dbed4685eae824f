"""What a database's catalog says of its tables: facts that mappings are checked against, and that a file can keep. No I/O.

sources.postgres.catalog reads them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from cdc_tracker.model import Column, Relation, table_name


class Reference(NamedTuple):
    """The column that a foreign key of one column points to. `table` is `schema.table`."""

    table: str
    column: str


class TableColumn(msgspec.Struct, frozen=True, omit_defaults=True):
    """A column. `generated` is attgenerated: empty, s(tored) or v(irtual).

    `base_oid` and `base_name` are those of the type below all domains; they are the type's own if it is no domain. `labels` are
    an enum's, or those of the enum that a domain or an array is made of; `allowed` the texts of a validated `CHECK (… IN (…))` of
    the column or its domain. `length` is that of char(n) and varchar(n). `element_oid` is the type of an array's elements, below
    their domain, 0 of anything else.
    """

    name: str
    type_oid: int
    type_name: str
    not_null: bool  # the column's, or its domain's
    key: bool  # part of the replica identity
    primary_key: bool
    base_oid: int
    base_name: str
    generated: str = ""
    unique: bool = False  # a unique index has it alone, and has no condition
    labels: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    length: int | None = None
    element_oid: int = 0
    references: Reference | None = None

    @property
    def is_domain(self) -> bool:
        """Whether the type is a domain. The stream carries its values as text, whatever the base type."""
        return self.base_oid != self.type_oid


class Leaf(msgspec.Struct, frozen=True):
    """A partition that stores rows. `publishable` and `has_key` are as in Table; `key`: the columns of its replica identity."""

    schema: str
    name: str
    kind: str
    identity: str
    has_key: bool
    publishable: bool
    key: tuple[str, ...]


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """One table as it is now. A partitioned table has `kind` p and leaves; `root` is the root's name, or the table's own.

    `identity` is relreplident. `logged` is the least that is logged of an old row in the table or in any of its leaves: n for
    nothing, also if the identity names no index that PostgreSQL accepts.
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    publishable: bool  # a publication may contain it: it is permanent, and not a system table
    identity: str
    has_key: bool  # it has an identity: a usable index (d, i), or the whole row (f)
    has_primary_key: bool  # usable as an identity: valid, and not DEFERRABLE
    has_children: bool  # other tables inherit from it
    rows: int  # the planner's estimate; -1: none
    can_select: bool
    owned: bool  # by the session's role or one that it is a member of
    root: tuple[str, str]
    columns: tuple[TableColumn, ...]
    leaves: tuple[Leaf, ...] = ()
    unique_keys: tuple[tuple[str, ...], ...] = ()  # columns of the unique indexes without a condition, the primary key's first

    @property
    def table(self) -> str:
        """`schema.table`."""
        return table_name(self.schema, self.name)

    def column(self, name: str) -> TableColumn | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def logged_leaves(self) -> tuple[Leaf, ...]:
        """Leaves whose changes are in the WAL."""
        return tuple(leaf for leaf in self.leaves if leaf.publishable)

    @property
    def has_virtual(self) -> bool:
        """Whether it has a virtual generated column."""
        return any(column.generated == "v" for column in self.columns)

    @property
    def logged(self) -> str:
        """See the class."""
        found = [self.identity if self.has_key else "n"]
        found += [leaf.identity if leaf.has_key else "n" for leaf in self.logged_leaves]
        return min(found, key="ndif".index)

    @property
    def relation(self) -> Relation:
        """As the stream describes it, with `logged` as its identity, and as its key what every partition's identity has."""
        partial = [set(leaf.key) for leaf in self.logged_leaves if leaf.identity != "f"]
        keys = {column.name for column in self.columns if column.key}.intersection(*partial)
        columns = tuple(Column(column.name, column.type_oid, column.name in keys) for column in self.columns)
        return Relation(self.schema, self.name, columns, self.logged)


class Snapshot(msgspec.Struct, frozen=True):
    """A database's catalog as a file keeps it. `version` is that of this layout, `server_version` as in 150018.

    `plugin`: the output plugin that the server was, or would be, read with; empty if unknown. `tables` are sorted and `stable`;
    `statements` make the schema again, without its rows: see sources.postgres.definitions.
    """

    version: int
    server_version: int
    database: str
    plugin: str
    tables: tuple[Table, ...]
    statements: tuple[str, ...] = ()


SNAPSHOT_VERSION = 1
_FIRST_OF_USERS = 16384  # oids below are the same on every server


def stable(tables: Iterable[Table]) -> tuple[Table, ...]:
    """The tables, sorted, without what differs between two databases of one schema: oids, grants, numbers of rows.

    The oid of a type that the database defines becomes a number made of its name, above all real ones that are likely.
    """
    return tuple(
        msgspec.structs.replace(
            table, oid=0, rows=-1, can_select=True, owned=True, columns=tuple(map(_stable_column, table.columns))
        )
        for table in sorted(tables, key=lambda table: (table.schema, table.name))
    )


def _stable_column(column: TableColumn) -> TableColumn:
    return msgspec.structs.replace(
        column,
        type_oid=_stable_oid(column.type_oid, column.type_name),
        base_oid=_stable_oid(column.base_oid, column.base_name),
        element_oid=_stable_oid(column.element_oid, column.base_name.removesuffix("[]")),
    )


def _stable_oid(oid: int, name: str) -> int:
    return oid if oid < _FIRST_OF_USERS else zlib.crc32(name.encode()) | 0x8000_0000
