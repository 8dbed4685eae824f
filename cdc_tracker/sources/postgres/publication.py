"""The publications of a source: as they exist, and the statements that create or alter them.

placement.py decides which tables they should contain; drift.py finds where they differ from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, SourceError
from cdc_tracker.sources.postgres import catalog
from cdc_tracker.sources.postgres.connection import Connection, translated

ALL_OPERATIONS = frozenset({"insert", "update", "delete", "truncate"})
REFUSABLE = frozenset({"update", "delete"})
"""Operations that PostgreSQL refuses on a table that publishes them and has no replica identity."""
COLUMN_LIST_VERSION = 150000
GENERATED_VERSION = 180000

Columns = tuple[str, ...]
Name = tuple[str, str]
"""Schema and table."""


@dataclass(frozen=True)
class Publication:
    """A publication as it exists or should be. `tables`: each with the columns published, None for all."""

    name: str
    operations: frozenset[str]
    tables: Mapping[Name, Columns | None] = field(default_factory=dict)
    via_root: bool = True
    generated: bool = False  # publishes stored generated columns (PostgreSQL 18)
    all_tables: bool = False
    owned: bool = True
    filtered: frozenset[Name] = frozenset()  # tables with a row filter
    schemas: tuple[str, ...] = ()  # schemas of which all tables are published
    refused: frozenset[Name] = frozenset()  # tables whose updates or deletes PostgreSQL refuses because of it


@dataclass(frozen=True)
class PublicationMember:
    """A table, or a single partition, to be published. `keyed`: in the publication that has updates and deletes.

    `refused`: PostgreSQL would refuse the application's updates and deletes of it, or of one of its partitions. `root`: of a
    partition published by itself.
    """

    name: Name
    operations: frozenset[str]
    columns: Columns | None = None
    keyed: bool = True
    refused: bool = False
    root: Name | None = None


@dataclass(frozen=True)
class Desired:
    """The publications that the mappings need, and what prevents them. `publications` is empty if the plugin needs none."""

    publications: tuple[Publication, ...]
    problems: tuple[Problem, ...]
    members: tuple[PublicationMember, ...] = ()


def names(settings: SourceSettings) -> tuple[str, str]:
    """Names of the publications to stream from. For pgoutput, setup creates both, so that a stream's options never change."""
    return settings.publication, f"{settings.publication}_inserts"


# Columns that later versions added are read as JSON: column lists (15), generated columns (18).
_LISTED = """
CASE WHEN to_jsonb(r) ->> 'prattrs' IS NOT NULL THEN
    (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
      WHERE a.attrelid = c.oid AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)) END
"""
_EXISTING = f"""
SELECT p.pubname, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       pg_has_role(p.pubowner, 'USAGE'), coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 's',
       coalesce((SELECT json_agg(json_build_array(n.nspname, c.relname, {_LISTED}, to_jsonb(r) ->> 'prqual' IS NOT NULL,
                                                     (p.pubupdate OR p.pubdelete) AND ({catalog.LACKS_IDENTITY})))
                   FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE r.prpubid = p.oid), '[]'), {{schemas}}
  FROM pg_publication p WHERE p.pubname = ANY (%s)
"""
_SCHEMAS = """
ARRAY(SELECT n.nspname::text FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
       WHERE s.pnpubid = p.oid ORDER BY 1)
"""


@translated()
def existing(connection: Connection, publications: Iterable[str]) -> dict[str, Publication]:
    """Returns the named publications that exist, by name."""
    schemas = _SCHEMAS if connection.info.server_version >= COLUMN_LIST_VERSION else "'{}'::text[]"
    rows = connection.execute(_EXISTING.format(schemas=schemas).encode(), [list(publications)]).fetchall()
    return {row[0]: _publication(row) for row in rows}


def _publication(row: Sequence[Any]) -> Publication:
    name, all_tables, insert, update, delete, truncate, via_root, owned, generated, tables, schemas = row
    published = zip(("insert", "update", "delete", "truncate"), (insert, update, delete, truncate), strict=True)
    return Publication(
        name,
        frozenset(operation for operation, on in published if on),
        {(schema, table): tuple(columns) if columns else None for schema, table, columns, *_ in tables},
        via_root,
        generated,
        all_tables,
        owned,
        frozenset((schema, table) for schema, table, _, filtered, _ in tables if filtered),
        tuple(schemas),
        frozenset((schema, table) for schema, table, _, _, refused in tables if refused),
    )


def plan(wanted: Iterable[Publication], present: Mapping[str, Publication]) -> list[str]:
    """The statements that turn `present` into what is wanted, as `setup` runs and `setup --print-sql` prints them.

    Raises SourceError for a publication FOR ALL TABLES.
    """
    statements: list[str] = []
    for publication in wanted:
        found = present.get(publication.name)
        if found is None:
            statements.append(_create(publication))
            continue
        if found.all_tables:
            raise SourceError(f"the publication {publication.name} is FOR ALL TABLES, and not cdc-tracker's", hint=ALL_TABLES)
        statements += _alter(publication, found)
    return statements


def statements(connection: Connection, settings: SourceSettings, wanted: Desired) -> list[str]:
    """`plan` for the publications that exist now. For wal2json, which needs none: the statements that drop those owned."""
    present = existing(connection, names(settings))
    return plan(wanted.publications, present) if wanted.publications else _unneeded(connection, settings, present)


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
    if found.schemas:
        schemas = sql.SQL(", ").join(map(sql.Identifier, found.schemas))
        statements.append(_text(alter.format(name, sql.SQL("DROP TABLES IN SCHEMA"), schemas)))
    dropped = [_only(table) for table in sorted(found.tables) if table not in wanted.tables]
    changed = sorted(
        table
        for table, columns in wanted.tables.items()
        if table in found.tables and (found.tables[table] != columns or table in found.filtered)
    )
    # A column list cannot be altered: the table is dropped and added again, in one transaction.
    dropped += [_only(table) for table in changed]
    if dropped:
        statements.append(_text(alter.format(name, sql.SQL("DROP TABLE"), sql.SQL(", ").join(dropped))))
    new = sorted({table for table in wanted.tables if table not in found.tables} | set(changed))
    if new:
        items = sql.SQL(", ").join(_table_item(table, wanted.tables[table]) for table in new)
        statements.append(_text(alter.format(name, sql.SQL("ADD TABLE"), items)))
    return statements


def _only(name: Name) -> sql.Composable:
    """Without inheritance children: they are tables of their own, which may have no replica identity."""
    return sql.SQL("ONLY {}").format(sql.Identifier(*name))


def _table_item(name: Name, columns: Columns | None) -> sql.Composable:
    if columns is None:
        return _only(name)
    return sql.SQL("{} ({})").format(_only(name), sql.SQL(", ").join(map(sql.Identifier, columns)))


def _options(publication: Publication) -> sql.Composable:
    operations = ", ".join(sorted(publication.operations, key=("insert", "update", "delete", "truncate").index))
    options = f"publish = '{operations}', publish_via_partition_root = {str(publication.via_root).lower()}"
    return sql.SQL(options + (", publish_generated_columns = stored" if publication.generated else ""))


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)


ALL_TABLES = "give `source.publication` a name of its own, or DROP PUBLICATION if it is not needed, then run `cdc-tracker setup`"


@translated()
def apply(connection: Connection, statements: Sequence[str]) -> None:
    """Runs the statements in one transaction. Only a table's owner can add it."""
    with connection.transaction():
        for statement in statements:
            connection.execute(statement.encode())


def drop_statements(settings: SourceSettings) -> list[str]:
    """Statements that drop both publications, if they exist."""
    return [drop(name) for name in names(settings)]


def removal(connection: Connection, settings: SourceSettings) -> list[str]:
    """Statements that drop the publications that setup made: any but one FOR ALL TABLES."""
    return [drop(found.name) for found in existing(connection, names(settings)).values() if not found.all_tables]


def _unneeded(connection: Connection, settings: SourceSettings, present: Mapping[str, Publication]) -> list[str]:
    """Statements that drop publications that wal2json does not need: they could make the application's statements fail.

    None for publications of other owners, or if another slot of this database may read from them.
    """
    with translated():
        [(read,)] = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE plugin = 'pgoutput' AND database = current_database()"
            " AND slot_name <> %s)",
            [settings.slot],
        ).fetchall()
    return [] if read else [drop(found.name) for found in present.values() if found.owned and not found.all_tables]


def drop(name: str) -> str:
    """The statement that drops a publication, if it exists."""
    return _text(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
