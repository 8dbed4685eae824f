"""One session of capture with the source: a replication stream, and a control connection beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg.postgres import types

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, Retry, SourceError, SourceUnavailable
from cdc_tracker.model import Lsn, OpenTransaction, Position, Segment, Transaction, table_name
from cdc_tracker.refusals import Refusal
from cdc_tracker.sources.postgres import catalog, pgoutput, placement, plugins, publication, slot, wal2json
from cdc_tracker.sources.postgres.connection import connect, is_leaving, translated
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.replication import ReplicationStream
from cdc_tracker.sources.postgres.segments import SegmentBuilder
from cdc_tracker.sources.postgres.synchronous import synchronous
from cdc_tracker.sources.postgres.verify import CommitTimes, Record, check_start, verify

_LEFT_OFF = {"pgoutput": pgoutput.left_off, "wal2json": wal2json.left_off}
_NUMBERS = frozenset(types[name].oid for name in ("numeric", "float4", "float8"))
LOOK = 9.0  # seconds after which tables and publications are looked at again
REFRESH = 10.0  # seconds after which wal2json's tables are described anew

log = structlog.get_logger("source")


class StartPoint(NamedTuple):
    confirmed: Lsn  # the slot's confirmed_flush_lsn
    timeline: int


class Session:
    """Opened at once; `close` ends both connections. `needs`: `schema.table` of what is captured, and what is used of it."""

    def __init__(self, settings: SourceSettings, needs: Mapping[str, Need]) -> None:
        self._settings = settings
        self._needs = needs
        self._url = settings.url.get_secret_value()
        self._control: psycopg.Connection[Any] | None = None
        self._refreshed = time.monotonic()
        self._looked = float("-inf")
        self._faults: tuple[Problem, ...] = ()
        self._must_fit = False
        self._expected: Transaction | None = None
        self._described: dict[str, wal2json.Description] = {}
        self.stream = ReplicationStream(self._url)
        try:
            state = slot.inspect(self._connected(), settings.slot)
        except BaseException:
            self.close()
            raise
        self._state = state
        self.plugin = state.plugin if state else ""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
        self.stream.close()

    def verify(
        self, record: Record | None, journal_end: Position | None, lowest: Position | None, times: Callable[[], CommitTimes]
    ) -> StartPoint:
        """Where slot and server stand, once everything holds that must before reading on. Raises SourceError and its kin."""
        identity = catalog.identify(self._connected())
        verify(record, self._state, identity, journal_end=journal_end, lowest_checkpoint=lowest, times=times)
        confirmed = self._state.confirmed_flush_lsn if self._state else None
        return StartPoint(confirmed or 0, identity.timeline)

    def refuse(self) -> None:
        """Raises SourceError where the slot's plugin would lose changes of what is mapped now. From then on `vitals` tells it."""
        self._must_fit = True
        if problem := self._unfit():
            raise Refusal.PLUGIN_UNFIT.error(problem.message, hint=problem.hint)

    def builder(self, after: Position, newest: Segment | None = None) -> SegmentBuilder:
        """What makes segments of the stream's frames. `newest`: the journal's, which ends at `after`."""
        last = _LEFT_OFF[newest.plugin](newest) if newest else None
        builder = self._builder(after, last if after.ordinal >= 0 else None)
        if newest and last and newest.plugin == self.plugin and self._comes_again(last.transaction):
            builder.expected = self._expected = last.transaction
        return builder

    def _builder(self, after: Position, left_off: OpenTransaction | None) -> SegmentBuilder:
        if self.plugin == "wal2json":
            return wal2json.Builder(after, self._describe, left_off, max_row=self._settings.max_row)
        encoding = self._connected().info.parameter_status("server_encoding")
        to_utf8 = None if encoding in ("UTF8", "SQL_ASCII") else self._to_utf8
        return pgoutput.Builder(after, left_off, max_row=self._settings.max_row, to_utf8=to_utf8)

    def start(self, lsn: Lsn) -> ReplicationStream:
        """The stream, from `lsn` on: never below the slot's confirmed_flush_lsn, where the server would silently skip ahead."""
        if self._expected is not None:
            lsn = min(lsn, self._expected.commit_lsn)
        if self._state is not None:
            check_start(lsn, self._state)
        publications = published(self._connected(), self._settings) if self.plugin == "pgoutput" else []
        self.stream.start(self._settings.slot, lsn, options(self.plugin, publications))
        return self.stream

    def _comes_again(self, transaction: Transaction) -> bool:
        """Whether a server with the same history sends the journal's last transaction again.

        It does not where the slot is past it; nor, from PostgreSQL 18 on, where a publication was made anew since.
        """
        if self._state is None or (self._state.confirmed_flush_lsn or 0) > transaction.commit_lsn:
            return False
        if self.plugin == "wal2json":
            return True
        names = list(publication.names(self._settings))
        query = "SELECT coalesce(bool_and(age(xmin) > age(%s::text::xid)), false) FROM pg_publication WHERE pubname = ANY (%s)"
        with translated():
            [(older,)] = self._connected().execute(query, [transaction.xid, names]).fetchall()
        return bool(older)

    # Beside the stream. What fails here is logged and left out: it must not end a stream that works.

    def vitals(self) -> slot.Vitals | None:
        """How the slot stands; and, every other time or so, whether all that is mapped still comes."""
        try:
            if time.monotonic() > self._looked + LOOK:
                self._looked = time.monotonic()
                self._faults = self._missing()
            return replace(slot.vitals(self._connected(), self._settings.slot), faults=self._faults)
        except (Retry, SourceError) as error:
            self._lose_control(error)
            return None

    def _missing(self) -> tuple[Problem, ...]:
        """What `check` says of the tables and publications, where it means that changes are lost or the application fails."""
        connection = self._connected()
        wanted = placement.desired(connection, self._settings, self._needs, self.plugin)
        present = publication.existing(connection, publication.names(self._settings))
        ours = (self._unfit() if self._must_fit else None, synchronous(connection, self.stream.application_name))
        drifted = [problem for problem in drift(wanted, present) if problem.severity == "error"]
        return (*filter(None, ours), *drifted)

    def _unfit(self) -> Problem | None:
        return plugins.refusal(self._connected(), self._settings, self._needs, self._state) if self._state else None

    def heartbeat(self) -> None:
        try:
            slot.heartbeat(self._connected())
        except (Retry, SourceError) as error:
            self._lose_control(error)

    def refresh(self, builder: SegmentBuilder) -> None:
        """Have wal2json's tables described anew: DDL and new partitions change them, and its frames do not tell."""
        if isinstance(builder, wal2json.Builder) and time.monotonic() > self._refreshed + REFRESH:
            self._refreshed = time.monotonic()
            builder.forget()

    def _describe(self, schema: str, table: str) -> wal2json.Description | None:
        name = table_name(schema, table)
        found = catalog.tables(self._connected(), [name]).get(name)
        if found is None:  # dropped since, so that its rows are of before: it is what it was, or what the frames alone say
            unknown = wal2json.Description(schema, table, schema, table, "d", ()) if name in self._needs else None
            return self._described.get(name, unknown)
        root = name if name in self._needs else table_name(*found.root)  # it may have become a partition of another
        if root not in self._needs:
            return None
        relation = found.relation if root == name else catalog.tables(self._connected(), [root])[root].relation
        columns = tuple((column.name, column.type_oid, column.key) for column in relation.columns)
        never_null = tuple(column.name for column in found.columns if column.not_null and column.type_oid in _NUMBERS)
        described = wal2json.Description(schema, table, relation.schema, relation.name, relation.identity, columns, never_null)
        self._described[name] = described
        return described

    def _to_utf8(self, content: bytes) -> bytes:
        """By the server, which knows its encodings best. What is in none stays as it is, and is refused where it is read."""
        try:
            with translated():
                [(converted,)] = self._connected().execute(
                    "SELECT convert(%b, getdatabaseencoding(), 'UTF8')", [content], binary=True
                )
        except SourceError:
            return content
        return bytes(converted)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._control is None or self._control.closed:
            self._control = connect(self._url, application_name="cdc-tracker control")
        return self._control

    def _lose_control(self, error: Exception) -> None:
        log.warning("control query failed", error=str(error))
        if self._control is not None:
            self._control.close()
            self._control = None
        try:
            self._connected()
        except (Retry, SourceError):
            if is_leaving(self._url):  # the server waits for this stream to confirm everything: let it go
                raise SourceUnavailable("the server is shutting down") from None


def published(connection: psycopg.Connection[Any], settings: SourceSettings) -> list[str]:
    """Those of our publications that exist. Raises SourceError where there is none.

    That of inserts comes first: PostgreSQL 14 looks no further once a partition has every operation, and would take the
    partition's own name where its root is in the other one.
    """
    present = publication.existing(connection, publication.names(settings))
    if not present:
        raise Refusal.PUBLICATION_MISSING.error(
            f"the publication {settings.publication} does not exist",
            hint="`cdc-tracker setup` makes it. Changes that were made while there was none cannot be decoded any more: "
            "`cdc-tracker repair` then tells what is missing",
        )
    return sorted(present, reverse=True)


def options(plugin: str, publications: Sequence[str]) -> dict[str, str]:
    """START_REPLICATION's options."""
    return wal2json.options() if plugin == "wal2json" else pgoutput.options(",".join(f'"{name}"' for name in publications))
