"""Which operations and columns of each mapped table to publish, and what of the mappings cannot be captured.

PostgreSQL refuses an UPDATE or DELETE of a table that publishes it and has no replica identity. So only what a mapping needs is
published, and updates and deletes only of tables that have an identity, as will partitions created later:

- `<name>` publishes the tables of which updates or deletes are mapped;
- `<name>_inserts` publishes inserts and truncates, which PostgreSQL never refuses, of all other tables. These include a
  partitioned table without a primary key, whose later partitions would have no identity; those of its partitions that have one
  are in the first publication by themselves.

wal2json needs no publications and gets none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem
from cdc_tracker.model import split_name, table_name
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import Connection
from cdc_tracker.sources.postgres.needs import OUTBOX, Need
from cdc_tracker.sources.postgres.publication import (
    ALL_OPERATIONS,
    GENERATED_VERSION,
    REFUSABLE,
    Columns,
    Desired,
    Publication,
    PublicationMember,
    names,
)
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.tables import Leaf, Table

_ABSENT = "correct the mapping's `table`, or create the table; a renamed table is captured under its new name only"


def desired(connection: Connection, settings: SourceSettings, needs: Mapping[str, Need], plugin: str = "pgoutput") -> Desired:
    """The publications that the mappings need, and what prevents them. `needs`: `schema.table` → what is used of it.

    The outbox is added. What cannot be published is left out and reported.
    """
    names_wanted = {*needs, *([settings.outbox.table] if settings.outbox else [])}
    return place(catalog.tables(connection, names_wanted), settings, needs, plugin, connection.info.server_version)


def place(tables: Mapping[str, Table], settings: SourceSettings, needs: Mapping[str, Need], plugin: str, version: int) -> Desired:
    """As `desired`, of these tables. `version`: the server's, as in 150018."""
    wanted, outbox = dict(needs), settings.outbox
    if outbox is not None:
        wanted.setdefault(outbox.table, OUTBOX)
    problems: list[Problem] = []
    members: list[PublicationMember] = []
    for name in sorted(wanted):
        need, table = wanted[name], tables.get(name)
        if table is not None:
            place = _Place(table, need, settings.never_capture.get(name, ()), plugin, version)
            problems += place.problems()
            members += place.members()
        elif outbox and name == outbox.table and outbox.layout == "cdc_tracker":
            members.append(PublicationMember(split_name(name), need.operations, keyed=False))  # setup creates it first
        else:
            problems.append(Problem(need.where, name, "does not exist", _ABSENT))
    if plugin == "wal2json":
        return Desired((), tuple(problems))
    return Desired(_publications(settings, members, version), tuple(problems), tuple(members))


def _publications(settings: SourceSettings, members: list[PublicationMember], version: int) -> tuple[Publication, Publication]:
    """Truncates are published of all tables or of none: a TRUNCATE may name several, and their order distinguishes its events."""
    operations = frozenset[str]().union(*(member.operations for member in members))
    truncate = operations & {"truncate"}
    publications = []
    for name, keyed in zip(names(settings), (True, False), strict=True):
        inside = [member for member in members if member.keyed is keyed and member.operations]
        published = frozenset[str]().union(*(member.operations for member in inside)) or ALL_OPERATIONS
        published = (published if keyed else frozenset({"insert"})) | truncate
        tables = {member.name: member.columns for member in inside}
        publications.append(Publication(name, published, tables, generated=version >= GENERATED_VERSION))
    return publications[0], publications[1]


@dataclass(frozen=True)
class _Place:
    """One table: where it is published, and what of it cannot be captured."""

    table: Table
    need: Need
    never_capture: Collection[str]
    plugin: str
    version: int

    # Where it is published

    def members(self) -> Iterator[PublicationMember]:
        """Yields the operations and columns to publish of the table and its partitions."""
        if not self.table.publishable or self._is_partition:
            return
        name, columns = (self.table.schema, self.table.name), self.columns
        operations = ALL_OPERATIONS if self.need.every_change else self.need.operations
        refused = [part for part in self.parts if self._refused(part)]
        if operations & REFUSABLE and not refused and self._inherits_identity:
            yield PublicationMember(name, operations, columns)
            return
        plain = operations - REFUSABLE
        if self.table.kind == "p":  # always the root: changes of its partitions arrive under its name
            yield PublicationMember(name, plain or frozenset({"insert"}), columns, keyed=False, refused=bool(refused))
            keyed = operations & REFUSABLE
            parts = [part for part in self.parts if keyed and part not in refused]
            yield from (PublicationMember((part.schema, part.name), keyed, columns, root=name) for part in parts)
        else:
            yield PublicationMember(name, plain, columns, keyed=False, refused=bool(refused))

    @property
    def parts(self) -> tuple[Table | Leaf, ...]:
        """The tables that store the rows: the partitions, or the table itself."""
        return self.table.logged_leaves if self.table.kind == "p" else (self.table,)

    @property
    def _is_partition(self) -> bool:
        return self.table.root != (self.table.schema, self.table.name)

    @property
    def _inherits_identity(self) -> bool:
        """Whether partitions created later have an identity: the default one is the primary key, which they inherit."""
        if self.table.kind != "p":
            return True
        key = {column.name for column in self.table.columns if column.primary_key}
        return self.table.has_primary_key and (self.columns is None or key <= set(self.columns))

    @property
    def columns(self) -> Columns | None:
        """The column list that never_capture needs: what is used, and the key, as PostgreSQL refuses to alter listed columns."""
        if not self.never_capture:
            return None
        sent = [column for column in self.table.columns if column.name not in self.never_capture and self._sent(column.generated)]
        keys = {name for part in self.parts for name in _key(part)}
        used = self.need.columns | self.need.old_columns | keys
        chosen = tuple(c.name for c in sent if self.need.every_column or c.name in used or c.primary_key)
        return chosen or tuple(column.name for column in sent[:1])

    def _sent(self, generated: str) -> bool:
        return not generated or (generated == "s" and (self.plugin == "wal2json" or self.version >= GENERATED_VERSION))

    def _refused(self, part: Table | Leaf) -> bool:
        return self._lacks_identity(part) or not self._lists_identity(part)

    def _lacks_identity(self, part: Table | Leaf) -> bool:
        """Whether it has no usable identity: wal2json omits its updates and deletes, PostgreSQL refuses them once published."""
        return not part.has_key or (part.identity == "f" and self.table.has_virtual and self.plugin != "wal2json")

    def _lists_identity(self, part: Table | Leaf) -> bool:
        """Whether the column list has the identity, without which PostgreSQL refuses updates; under FULL it allows no list."""
        return self.columns is None or (part.identity != "f" and set(_key(part)) <= set(self.columns))

    # What cannot be captured

    def problems(self) -> Iterator[Problem]:
        """Yields an error for whatever prevents the capture of a mapped table, and warnings."""
        unpublishable = self._unpublishable()
        if unpublishable:
            yield unpublishable
            return
        yield from self._columns()
        yield from self._foreign_rows()
        if self.columns is not None and self.plugin != "wal2json":
            listed = ", ".join(self.columns)
            text = f"never_capture publishes it with a column list: PostgreSQL refuses DROP COLUMN and ALTER … TYPE of {listed}"
            hint = "before you drop one, remove it from the mappings and run `cdc-tracker setup`: see docs/operator/database.md"
            yield self._problem(text, hint, "warning")
        mapped = self.need.operations & REFUSABLE
        if mapped:
            yield from self._identity(f"{' and '.join(sorted(mapped))} is mapped", "error")
        elif self.need.every_change:
            yield from self._identity("a destination takes raw changes of it", "warning")

    def _problem(self, message: str, hint: str, severity: str = "error") -> Problem:
        return Problem(self.need.where, self.table.table, message, hint, severity)

    def _unpublishable(self) -> Problem | None:
        table = self.table
        if self._is_partition:
            root = table_name(*table.root)
            return self._problem(f"is a partition of {root}", f"map {root}: changes of all its partitions arrive under its name")
        if table.kind not in "rp":
            kind = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}[table.kind]
            return self._problem(f"is {kind}, which has no row changes in the WAL", "map the underlying table")
        if table.persistence != "p":
            kind = "unlogged" if table.persistence == "u" else "temporary"
            return self._problem(f"is {kind}: its changes are not in the WAL", f"ALTER TABLE {_quoted(table)} SET LOGGED")
        if not table.publishable:
            return self._problem("is a system table, whose changes PostgreSQL does not publish", "map the application's tables")
        return None

    def _columns(self) -> Iterator[Problem]:
        used = self.need.columns | self.need.old_columns
        for name in sorted(used & set(self.never_capture)):
            text = f"the column {name} is mapped, but never_capture excludes it"
            yield self._problem(text, "remove it from the mapping or from never_capture")
        for column in self.table.columns:
            if column.name not in used or not column.generated or column.name in self.never_capture:
                continue
            if column.generated == "v":
                text = f"the column {column.name} is a virtual generated column, whose values are not in the WAL"
                yield self._problem(text, "compute it in the mapping, or make the column STORED")
            elif self.plugin and not self._sent(column.generated):
                text = f"the column {column.name} is generated: pgoutput sends generated columns from PostgreSQL 18 on only"
                yield self._problem(text, "compute it in the mapping, use wal2json, or upgrade the server")

    def _foreign_rows(self) -> Iterator[Problem]:
        """Warnings about rows that a query of the table returns but the WAL does not report as its own."""
        if self.table.has_children:
            text = "other tables inherit from it: their rows, which a query of it also returns, are not captured with it"
            yield self._problem(text, "map those tables as well", "warning")
        foreign = [_quoted(leaf) for leaf in self.table.leaves if leaf.kind == "f"]
        if foreign:
            text = f"the changes of {_some(foreign)} are not captured: those of foreign tables are not in this server's WAL"
            yield self._problem(text, "no action is needed if they are archives that do not change", "warning")

    def _identity(self, use: str, severity: str) -> Iterator[Problem]:
        without = [part for part in self.parts if self._lacks_identity(part)]
        if without:
            yield self._without_identity(use, without, severity)
        elif any(not self._lists_identity(part) for part in self.parts):
            yield self._problem(
                f"{use}, and never_capture leaves out a column of the replica identity: updates and deletes would fail",
                f"remove that column from never_capture, or ALTER TABLE {_quoted(self.table)} REPLICA IDENTITY USING INDEX … "
                "without it",
                severity,
            )
        elif not self._inherits_identity:
            yield self._problem(
                f"{use}, but partitions created later will have no replica identity: only their inserts are captured, until they "
                "have one and `cdc-tracker setup` is run again",
                "give the partitioned table a primary key that is not DEFERRABLE: every partition inherits it",
                "warning",
            )

    def _without_identity(self, use: str, without: list[Table | Leaf], severity: str) -> Problem:
        named, virtual = [_quoted(part) for part in without], self.table.has_virtual and self.plugin != "wal2json"
        refused = "such changes cannot be captured: PostgreSQL would refuse the application's own once they are published"
        key = "give it a primary key that is not DEFERRABLE"
        if virtual and any(part.has_key for part in without):
            return self._problem(
                f"{use}, but {_some(named)} has REPLICA IDENTITY FULL and a virtual generated column: {refused}",
                "; ".join(f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT" for name in named) + " (with a primary key)",
                severity,
            )
        meaning = "such changes cannot be captured: wal2json leaves them out" if self.plugin == "wal2json" else refused
        full = "; ".join(f"ALTER TABLE {name} REPLICA IDENTITY FULL" for name in named)
        hint = key if virtual else f"{full} (or {key})"
        return self._problem(f"{use}, but {_some(named)} has no replica identity: {meaning}", hint, severity)


def _key(part: Table | Leaf) -> tuple[str, ...]:
    return part.key if isinstance(part, Leaf) else tuple(column.name for column in part.columns if column.key)


def _some(named: list[str]) -> str:
    return ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")


def _quoted(table: Table | Leaf) -> str:
    return quoted(table.schema, table.name)
