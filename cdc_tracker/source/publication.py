"""The publications: which tables are in them, how they come to be so, and what has drifted.

Two of them. `<name>` publishes everything a table's rows go through. `<name>_inserts` publishes inserts only, for tables without
a replica identity: in the first one, the application's updates and deletes of such a table would fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from cdc_tracker.errors import Problem, SourceError
from cdc_tracker.source import catalog
from cdc_tracker.source.catalog import Table, split_name
from cdc_tracker.source.connection import translated
from cdc_tracker.source.settings import SourceSettings

ALL_OPERATIONS = frozenset({"insert", "update", "delete", "truncate"})
INSERTS = frozenset({"insert"})
GENERATED_VERSION = 180000

Columns = tuple[str, ...]
Name = tuple[str, str]
"""Schema and table."""


@dataclass(frozen=True)
class Publication:
    """As it is, or should be. `tables`: each with the columns that are published, None for all of them."""

    name: str
    operations: frozenset[str]
    tables: Mapping[Name, Columns | None] = field(default_factory=dict)
    via_root: bool = True
    generated: bool = False  # stored generated columns are published, as they can be from 18 on
    all_tables: bool = False
    owned: bool = True


@dataclass(frozen=True)
class Desired:
    """What the mappings need, and what stands in the way."""

    publications: tuple[Publication, ...]
    problems: tuple[Problem, ...]


def names(settings: SourceSettings) -> tuple[str, str]:
    """The publications to stream from. Both always exist after setup, so that a stream's options never change."""
    return settings.publication, f"{settings.publication}_inserts"


def desired(connection: psycopg.Connection[Any], settings: SourceSettings, needs: Mapping[str, Collection[str]]) -> Desired:
    """`needs`: `schema.table` → the operations that mappings name (`insert`, `update`, `delete`, `truncate`).

    The outbox is added by itself. Tables that cannot be published are left out and reported.
    """
    wanted = {table: frozenset(operations) for table, operations in needs.items()}
    if settings.outbox is not None:
        wanted.setdefault(settings.outbox.table, INSERTS)
    found = catalog.tables(connection, wanted)
    problems: list[Problem] = []
    everything: dict[Name, Columns | None] = {}
    inserts: dict[Name, Columns | None] = {}
    for name in sorted(wanted):
        table = found.get(name)
        if table is None:
            if settings.outbox and name == settings.outbox.table and settings.outbox.layout == "cdc_tracker":
                everything[split_name(name)] = None  # setup makes it first
            else:
                problems.append(Problem("", name, "there is no such table", "mend the name, or create the table"))
            continue
        columns = _published_columns(table, settings.never_capture.get(name, ()))
        trouble = _unpublishable(table) or _without_identity(table, wanted[name], columns)
        if trouble:
            problems.append(trouble)
        elif table.usable and _covers_identity(table, columns):
            everything[table.schema, table.name] = columns
        else:
            inserts[table.schema, table.name] = columns
    generated = connection.info.server_version >= GENERATED_VERSION
    first, second = names(settings)
    publications = (
        Publication(first, ALL_OPERATIONS, everything, generated=generated),
        Publication(second, INSERTS, inserts, generated=generated),
    )
    return Desired(publications, tuple(problems))


def _published_columns(table: Table, never: Collection[str]) -> Columns | None:
    if not never:
        return None
    return tuple(column.name for column in table.columns if column.name not in never and not column.generated)


def _unpublishable(table: Table) -> Problem | None:
    if table.root != (table.schema, table.name):
        root = ".".join(table.root)
        return Problem(
            "", table.table, f"is a partition of {root}", f"map {root}: the changes of all its partitions come under it"
        )
    if table.kind not in "rp":
        kind = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}[table.kind]
        return Problem("", table.table, f"is {kind}, which has no row changes in the WAL", "map the table behind it")
    if table.persistence != "p":
        kind = "unlogged" if table.persistence == "u" else "temporary"
        return Problem("", table.table, f"is {kind}: its changes are not in the WAL", f"ALTER TABLE {_quoted(table)} SET LOGGED")
    return None


def _covers_identity(table: Table, columns: Columns | None) -> bool:
    """PostgreSQL refuses updates of a row whose identity the column list leaves out; under FULL it takes no list at all."""
    return columns is None or (table.logged != "f" and all(column.name in columns for column in table.columns if column.key))


def _without_identity(table: Table, operations: frozenset[str], columns: Columns | None) -> Problem | None:
    """Mapped for more than inserts, and published like that its updates and deletes would fail."""
    if not operations & {"update", "delete"}:
        return None
    mapped = " and ".join(sorted(operations & {"update", "delete"}))
    if not table.usable:
        bare = [_quoted(leaf) for leaf in table.leaves if not leaf.usable] if table.kind == "p" else [_quoted(table)]
        shown = ", ".join(bare[:3]) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
        return Problem(
            "",
            table.table,
            f"{mapped} is mapped, and {shown} has no replica identity: once published, the application's own updates and "
            "deletes of it would fail",
            "; ".join(f"ALTER TABLE {name} REPLICA IDENTITY FULL" for name in bare) + " (or give it a primary key)",
        )
    if not _covers_identity(table, columns):
        return Problem(
            "",
            table.table,
            f"{mapped} is mapped, and never_capture leaves out a column of the replica identity: updates and deletes would fail",
            f"take that column out of never_capture, or ALTER TABLE {_quoted(table)} REPLICA IDENTITY USING INDEX … without it",
        )
    return None


# As JSON what later versions added: column lists (15), generated columns (18).
_LISTED = """
CASE WHEN to_jsonb(r) ->> 'prattrs' IS NOT NULL THEN
    (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
      WHERE a.attrelid = c.oid AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)) END
"""
_EXISTING = f"""
SELECT p.pubname, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       pg_has_role(p.pubowner, 'USAGE'), coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 's',
       coalesce((SELECT json_agg(json_build_array(n.nspname, c.relname, {_LISTED}))
                   FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE r.prpubid = p.oid), '[]')
  FROM pg_publication p WHERE p.pubname = ANY (%s)
"""


@translated()
def existing(connection: psycopg.Connection[Any], publications: Iterable[str]) -> dict[str, Publication]:
    """Those of the publications that exist, by name."""
    rows = connection.execute(_EXISTING.encode(), [list(publications)]).fetchall()
    return {row[0]: _publication(row) for row in rows}


def _publication(row: Sequence[Any]) -> Publication:
    name, all_tables, insert, update, delete, truncate, via_root, owned, generated, tables = row
    published = zip(("insert", "update", "delete", "truncate"), (insert, update, delete, truncate), strict=True)
    return Publication(
        name,
        frozenset(operation for operation, on in published if on),
        {(schema, table): tuple(columns) if columns else None for schema, table, columns in tables},
        via_root,
        generated,
        all_tables,
        owned,
    )


def plan(wanted: Iterable[Publication], present: Mapping[str, Publication]) -> list[str]:
    """The statements that make `present` what is wanted: none where it is. What `setup` runs and `setup --print-sql` prints."""
    statements: list[str] = []
    for publication in wanted:
        found = present.get(publication.name)
        if found is None:
            statements.append(_create(publication))
            continue
        if found.all_tables:
            raise SourceError(
                f"the publication {publication.name} is FOR ALL TABLES: somebody else made it",
                hint="give `source.publication` a name of its own, or DROP PUBLICATION if nobody needs it",
            )
        statements += _alter(publication, found)
    return statements


def _create(publication: Publication) -> str:
    tables = [_table_item(name, columns) for name, columns in sorted(publication.tables.items())]
    return _text(
        sql.SQL("CREATE PUBLICATION {}{}{} WITH ({})").format(
            sql.Identifier(publication.name),
            sql.SQL(" FOR TABLE " if tables else ""),
            sql.SQL(", ").join(tables),
            _options(publication),
        )
    )


def _alter(wanted: Publication, found: Publication) -> list[str]:
    alter = sql.SQL("ALTER PUBLICATION {} {} {}")
    name = sql.Identifier(wanted.name)
    statements = []
    if (found.operations, found.via_root, found.generated) != (wanted.operations, wanted.via_root, wanted.generated):
        statements.append(_text(alter.format(name, sql.SQL("SET"), sql.SQL("({})").format(_options(wanted)))))
    gone = [sql.Identifier(*table) for table in sorted(found.tables) if table not in wanted.tables]
    changed = sorted(
        table for table, columns in wanted.tables.items() if table in found.tables and found.tables[table] != columns
    )
    # A column list cannot be altered: the table is taken out and put in again, which one transaction makes unseen.
    gone += [sql.Identifier(*table) for table in changed]
    if gone:
        statements.append(_text(alter.format(name, sql.SQL("DROP TABLE"), sql.SQL(", ").join(gone))))
    new = sorted({table for table in wanted.tables if table not in found.tables} | set(changed))
    if new:
        items = sql.SQL(", ").join(_table_item(table, wanted.tables[table]) for table in new)
        statements.append(_text(alter.format(name, sql.SQL("ADD TABLE"), items)))
    return statements


def _table_item(name: Name, columns: Columns | None) -> sql.Composable:
    if columns is None:
        return sql.Identifier(*name)
    return sql.SQL("{} ({})").format(sql.Identifier(*name), sql.SQL(", ").join(map(sql.Identifier, columns)))


def _options(publication: Publication) -> sql.Composable:
    operations = ", ".join(sorted(publication.operations, key=("insert", "update", "delete", "truncate").index))
    options = f"publish = '{operations}', publish_via_partition_root = {str(publication.via_root).lower()}"
    return sql.SQL(options + (", publish_generated_columns = stored" if publication.generated else ""))


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)


def _quoted(table: Table | catalog.Leaf) -> str:
    return _text(sql.Identifier(table.schema, table.name))


def drift(wanted: Desired, present: Mapping[str, Publication]) -> list[Problem]:
    """What no longer is as setup left it, with what mends it. A table that was dropped and made again is in no publication."""
    problems = list(wanted.problems)
    for publication in wanted.publications:
        found = present.get(publication.name)
        if found is None:
            problems.append(Problem("", publication.name, "the publication does not exist", _SETUP))
            continue
        problems += [
            Problem("", ".".join(name), f"is not in the publication {publication.name}: its changes do not arrive", _SETUP)
            for name in sorted(publication.tables)
            if name not in found.tables and not found.all_tables
        ]
        problems += _differences(publication, found)
    return problems


_SETUP = "run `cdc-tracker setup`: it puts right what differs and leaves the rest alone"


def _differences(wanted: Publication, found: Publication) -> list[Problem]:
    problems = []
    if found.operations != wanted.operations:
        missing = ", ".join(sorted(wanted.operations - found.operations)) or "nothing"
        extra = ", ".join(sorted(found.operations - wanted.operations)) or "nothing"
        problems.append(Problem("", wanted.name, f"publishes {missing} too little and {extra} too much", _SETUP))
    if not found.via_root:
        problems.append(Problem("", wanted.name, "names partitions instead of their root: their mappings see nothing", _SETUP))
    for name in sorted(found.tables):
        if name not in wanted.tables:
            text = f"is in the publication {wanted.name}, and no mapping names it there"
            problems.append(Problem("", ".".join(name), text, _SETUP, "warning"))
        elif found.tables[name] != wanted.tables[name]:
            problems.append(Problem("", ".".join(name), "is published with other columns than never_capture leaves", _SETUP))
    return problems


@translated()
def apply(connection: psycopg.Connection[Any], statements: Sequence[str]) -> None:
    """Run the statements in one transaction. Adding a table takes its owner."""
    with connection.transaction():
        for statement in statements:
            connection.execute(statement.encode())


def drop_statements(settings: SourceSettings) -> list[str]:
    return [_text(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name))) for name in names(settings)]
