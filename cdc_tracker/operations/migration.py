"""What a migration does to the mapped events: it runs in a scratch database, and mappings are checked before and after it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc_tracker.config.config import Config
from cdc_tracker.errors import CdcTrackerError, ConfigError, Problem
from cdc_tracker.mapping import Mappings
from cdc_tracker.operations import snapshot
from cdc_tracker.operations.check import mappings_found, ok, problems_of
from cdc_tracker.operations.migration_effects import Seen, compared
from cdc_tracker.operations.scratch import Scratch, scratch
from cdc_tracker.sources.postgres import catalog, definitions, placement, publication
from cdc_tracker.sources.postgres.connection import Connection
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.tables import Snapshot
from cdc_tracker.units import plural
from cdc_tracker.worker.assemble import table_needs

_MARK = r"^[ \t]*--[ \t]*(?:\+goose[ \t]+|\+migrate[ \t]+|rambler[ \t]+|migrate:)"
_DOWN = re.compile(rf"(?:{_MARK}down|^[ \t]*--[ \t]*//@undo)\b.*?(?={_MARK}up\b|\Z)", re.I | re.M | re.S)
_DUMPED = re.compile(r"^-- Dumped from database version (\d+)(?:\.(\d+))?", re.MULTILINE)
_NEWEST = 180000
_WHOLE = (
    "If it lacks what a saved catalog leaves out (grants, policies, aggregates, foreign tables), give the whole schema: "
    "`pg_dump --schema-only --file schema.sql`, then `--schema schema.sql`."
)


@dataclass(frozen=True)
class Script:
    """A file of SQL. `name` is for people, `folder` what its `\\i` starts from."""

    name: str
    text: str
    folder: Path

    @property
    def up(self) -> str:
        """Without the parts that take it back, as goose, dbmate and others keep them in the file. Lines keep their numbers."""
        return _DOWN.sub(lambda down: "\n" * down[0].count("\n"), self.text)


def script(path: Path) -> Script:
    """Reads the file. Raises ConfigError if it cannot be read or is no text."""
    try:
        return Script(str(path), path.read_text(encoding="utf-8-sig"), path.absolute().parent)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="A migration is a file of SQL.") from None


@dataclass(frozen=True)
class _Base:
    """The schema before the migration: a snapshot's statements, or a script. `where` is for people."""

    where: str
    version: int
    plugin: str
    statements: Sequence[str] = ()
    script: Script | None = None


def check_migration(
    config: Config, scripts: Sequence[Script], *, schema: Path | None = None, url: str | None = None
) -> Iterator[Problem]:
    """What the scripts, one after the other, would newly break; `severity` as in `check`.

    `schema`: a file of `check --save-schema`, or of SQL; None: the catalog of the source as it is now. `url`: a server to try it
    on; None: an embedded one. Leaves nothing behind. Never raises a CdcTrackerError: what fails is a finding, and an error.
    """
    mappings = yield from mappings_found(config)
    if mappings is None:
        return
    try:
        base = _base(config, schema)
        yield ok("schema", base.where)
        with scratch(url) as server:
            yield from _Trial(_without_outbox(config), mappings, base, server).findings(scripts)
    except CdcTrackerError as error:
        yield from problems_of(error, "migration")


def _base(config: Config, schema: Path | None) -> _Base:
    if schema is not None and schema.suffix.lower() == ".sql":
        given = script(schema)
        dumped = _DUMPED.search(given.text)
        version = int(dumped[1]) * 10000 + int(dumped[2] or 0) if dumped else _NEWEST
        return _Base(f"{schema}", version, _plugin(config, ""), script=given)
    found: Snapshot = snapshot.take(config) if schema is None else snapshot.read(schema)
    where = snapshot.described(found) if schema is None else f"{schema}: {snapshot.described(found)}"
    return _Base(where, found.server_version, _plugin(config, found.plugin), found.statements)


def _plugin(config: Config, known: str) -> str:
    chosen = config.source.plugin
    return (known or "pgoutput") if chosen == "auto" else chosen


def _without_outbox(config: Config) -> Config:
    """The outbox of our own is in no schema: setup makes it. One in Debezium's layout is the application's."""
    outbox = config.source.outbox
    if outbox is None or outbox.layout == "debezium":
        return config
    return config.model_copy(update={"source": config.source.model_copy(update={"outbox": None})})


class _Trial:
    """The scripts in a database of their own, and what is found before and after them."""

    def __init__(self, config: Config, mappings: Mappings, base: _Base, server: Scratch) -> None:
        self.config = config
        self.mappings = mappings
        self.base = base
        self.server = server

    def findings(self, scripts: Sequence[Script]) -> Iterator[Problem]:
        """Begins again with the roles that statements name: they are the server's, so that no schema has them."""
        while True:
            with self.server.database() as name:
                unbuilt = self._build(name)
                before = self._look(name, set_up=True)
                failed = self._run(name, scripts)
                if self.server.create_roles([*unbuilt, *failed]):
                    continue
                after = before if failed else self._look(name)
            break
        if unbuilt:
            yield self._unbuilt(unbuilt)
        if failed:
            hint = f"Nothing was compared. {self._more(failed[0])}".strip()
            yield Problem("migration", "", f"does not run in the scratch database: {failed[0]}", hint)
            return
        yield ok("migration", f"{', '.join(script.name for script in scripts)}: runs")
        yield from compared(self.mappings, before, after)

    def _build(self, name: str) -> list[str]:
        """Makes the schema before the migration; returns what of it failed."""
        given = self.base.script
        if given is not None:
            return self.server.run(name, given.text, label=given.name, folder=given.folder, stop=False)
        with self.server.connection(name) as connection:
            return definitions.rebuild(connection, self.base.statements)

    def _run(self, name: str, scripts: Sequence[Script]) -> list[str]:
        """Runs the scripts up to the first failure."""
        for each in scripts:
            if not each.up.strip():  # perhaps what should have written it has failed
                return [f"{each.name}: there is no SQL in it"]
            if failed := self.server.run(name, each.up, label=each.name, folder=each.folder):
                return failed
        return []

    def _look(self, name: str, *, set_up: bool = False) -> Seen:
        """What is found now. `set_up`: the publications are made first, as `setup` has made them."""
        with self.server.connection(name) as connection:
            return self._seen(connection, set_up=set_up)

    def _seen(self, connection: Connection, *, set_up: bool) -> Seen:
        settings, needs = self.config.source, table_needs(self.config, self.mappings)
        tables = {table.table: table for table in catalog.user_tables(connection)}
        tables |= catalog.tables(connection, needs.keys() - tables.keys())
        plugin, version = self.base.plugin, min(self.base.version, connection.info.server_version)
        known = {name: need for name, need in needs.items() if name in tables}
        wanted = placement.place({name: tables[name] for name in known}, settings, known, plugin, version)
        names = publication.names(settings)
        if set_up:
            publication.apply(connection, publication.plan(wanted.publications, publication.existing(connection, names)))
        present = publication.existing(connection, names)
        found = snapshot.misfits(self.config, self.mappings, tables, plugin=plugin, version=version) + drift(wanted, present)
        return Seen(tables, tuple(dict.fromkeys(found)), tuple(publication.plan(wanted.publications, present)))

    def _unbuilt(self, failed: Sequence[str]) -> Problem:
        text = f"{plural(len(failed), 'statement')} of it cannot be run in the scratch database, such as: {failed[0]}"
        return Problem("schema", "", text, self._more(failed[0]), "warning")

    def _more(self, failed: str) -> str:
        """What gives the scratch database what it may lack."""
        if "extension" in failed or "access method" in failed:
            return "Try it on a server that has the extension: `--scratch URL`."
        return _WHOLE if self.base.script is None else ""
