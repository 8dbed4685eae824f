"""One session of capture with the source: a replication stream and a control connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog
from psycopg.postgres import types

from cdc_tracker.closing import Closing
from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem, Retry, SourceError, SourceUnavailable
from cdc_tracker.model import Lsn, OpenTransaction, Position, Segment, Transaction, table_name
from cdc_tracker.refusals import Refusal
from cdc_tracker.sources.postgres import catalog, pgoutput, placement, plugins, publication, slot, wal2json
from cdc_tracker.sources.postgres.connection import Connection, connect, is_leaving, translated
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.sources.postgres.replication import ReplicationStream
from cdc_tracker.sources.postgres.segments import SegmentBuilder
from cdc_tracker.sources.postgres.synchronous import synchronous
from cdc_tracker.sources.postgres.verify import CommitTimes, RecordedSource, check_start, verify

_LEFT_OFF = {"pgoutput": pgoutput.left_off, "wal2json": wal2json.left_off}
_NUMBERS = frozenset(types[name].oid for name in ("numeric", "float4", "float8"))
CHECK_INTERVAL = 9.0  # seconds between checks of tables and publications
REFRESH = 10.0  # seconds after which wal2json's tables are described again

log = structlog.get_logger("source")


class StartPoint(NamedTuple):
    """Where reading starts, on a verified server."""

    confirmed: Lsn  # the slot's confirmed_flush_lsn
    timeline: int


class Session(Closing):
    """Connects when created; `close` closes both connections. `needs`: captured `schema.table` → what is used of it."""

    def __init__(self, settings: SourceSettings, needs: Mapping[str, Need]) -> None:
        self._settings = settings
        self._needs = needs
        self._url = settings.url.get_secret_value()
        self._control: Connection | None = None
        self._refreshed = time.monotonic()
        self._checked = float("-inf")
        self._faults: tuple[Problem, ...] = ()
        self._plugin_checked = False
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

    def close(self) -> None:
        """Closes both connections."""
        if self._control is not None:
            self._control.close()
        self.stream.close()

    def verify(
        self,
        record: RecordedSource | None,
        journal_end: Position | None,
        lowest: Position | None,
        times: Callable[[], CommitTimes],
    ) -> StartPoint:
        """Verifies slot and server; returns the confirmed LSN and the timeline. Raises a SourceError subclass; see verify.py."""
        identity = catalog.identify(self._connected())
        verify(record, self._state, identity, journal_end=journal_end, lowest_checkpoint=lowest, times=times)
        confirmed = self._state.confirmed_flush_lsn if self._state else None
        return StartPoint(confirmed or 0, identity.timeline)

    def check_plugin(self) -> None:
        """Raises SourceError if the slot's plugin would lose changes of the mapped tables. `vitals` checks it from then on."""
        self._plugin_checked = True
        if problem := self._plugin_problem():
            raise Refusal.PLUGIN_UNFIT.error(problem.message, hint=problem.hint)

    def builder(self, after: Position, newest: Segment | None = None) -> SegmentBuilder:
        """The builder of segments for the stream. `newest`: the journal's newest segment, which ends at `after`."""
        last = _LEFT_OFF[newest.plugin](newest) if newest else None
        builder = self._builder(after, last if after.ordinal >= 0 else None)
        if newest and last and newest.plugin == self.plugin and self._is_resent(last.transaction):
            builder.expected = self._expected = last.transaction
        return builder

    def _builder(self, after: Position, left_off: OpenTransaction | None) -> SegmentBuilder:
        if self.plugin == "wal2json":
            return wal2json.Builder(after, self._describe, left_off, max_row=self._settings.max_row)
        encoding = self._connected().info.parameter_status("server_encoding")
        to_utf8 = None if encoding in ("UTF8", "SQL_ASCII") else self._to_utf8
        return pgoutput.Builder(after, left_off, max_row=self._settings.max_row, to_utf8=to_utf8)

    def start(self, lsn: Lsn) -> ReplicationStream:
        """Starts the stream at `lsn` and returns it. Raises Gap below confirmed_flush_lsn, where the server would start later."""
        if self._expected is not None:
            lsn = min(lsn, self._expected.commit_lsn)
        if self._state is not None:
            check_start(lsn, self._state)
        publications = published(self._connected(), self._settings) if self.plugin == "pgoutput" else []
        self.stream.start(self._settings.slot, lsn, options(self.plugin, publications))
        return self.stream

    def _is_resent(self, transaction: Transaction) -> bool:
        """Whether a server with the same history sends the journal's last transaction again.

        It does not if the slot is past it; nor, from PostgreSQL 18 on, if a publication was recreated since.
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

    # Beside the stream: failures are logged, and do not end a working stream

    def vitals(self) -> slot.Vitals | None:
        """The slot's state, with what keeps mapped changes from arriving, checked every CHECK_INTERVAL. None if a query fails."""
        try:
            if time.monotonic() > self._checked + CHECK_INTERVAL:
                self._checked = time.monotonic()
                self._faults = self._find_faults()
            return slot.vitals(self._connected(), self._settings.slot)._replace(faults=self._faults)
        except (Retry, SourceError) as error:
            self._lose_control(error)
            return None

    def _find_faults(self) -> tuple[Problem, ...]:
        """The problems of tables and publications, as in `check`, that lose changes or make the application's statements fail."""
        connection = self._connected()
        wanted = placement.desired(connection, self._settings, self._needs, self.plugin)
        present = publication.existing(connection, publication.names(self._settings))
        own = (self._plugin_problem() if self._plugin_checked else None, synchronous(connection, self.stream.application_name))
        drifted = [problem for problem in drift(wanted, present) if problem.severity == "error"]
        return (*filter(None, own), *drifted)

    def _plugin_problem(self) -> Problem | None:
        return plugins.refusal(self._connected(), self._settings, self._needs, self._state) if self._state else None

    def heartbeat(self) -> None:
        """Writes a heartbeat; see slot.heartbeat."""
        try:
            slot.heartbeat(self._connected())
        except (Retry, SourceError) as error:
            self._lose_control(error)

    def refresh(self, builder: SegmentBuilder) -> None:
        """Makes wal2json's tables be described again, every REFRESH: its frames do not report DDL and new partitions."""
        if isinstance(builder, wal2json.Builder) and time.monotonic() > self._refreshed + REFRESH:
            self._refreshed = time.monotonic()
            builder.forget()

    def _describe(self, schema: str, table: str) -> wal2json.Description | None:
        name = table_name(schema, table)
        found = catalog.tables(self._connected(), [name]).get(name)
        if found is None:  # dropped since: its rows are older, so the last description holds, else only the frames' own
            unknown = wal2json.Description(schema, table, schema, table, "d", ()) if name in self._needs else None
            return self._described.get(name, unknown)
        root = name if name in self._needs else table_name(*found.root)  # it may be a partition of another now
        if root not in self._needs:
            return None
        relation = found.relation if root == name else catalog.tables(self._connected(), [root])[root].relation
        columns = tuple((column.name, column.type_oid, column.key) for column in relation.columns)
        never_null = tuple(column.name for column in found.columns if column.not_null and column.type_oid in _NUMBERS)
        described = wal2json.Description(schema, table, relation.schema, relation.name, relation.identity, columns, never_null)
        self._described[name] = described
        return described

    def _to_utf8(self, content: bytes) -> bytes:
        """Converted by the server. Content that is invalid in its encoding is returned unchanged, and parked when it is read."""
        try:
            with translated():
                [(converted,)] = self._connected().execute(
                    "SELECT convert(%b, getdatabaseencoding(), 'UTF8')", [content], binary=True
                )
        except SourceError:
            return content
        return bytes(converted)

    def _connected(self) -> Connection:
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
            if is_leaving(self._url):  # the server waits for this stream to end
                raise SourceUnavailable("the server is shutting down") from None


def published(connection: Connection, settings: SourceSettings) -> list[str]:
    """The source's publications that exist. Raises SourceError if there are none.

    That of inserts is first: PostgreSQL 14 stops searching once it has every operation of a partition, and would use the
    partition's own name although its root is in the other publication.
    """
    present = publication.existing(connection, publication.names(settings))
    if not present:
        raise Refusal.PUBLICATION_MISSING.error(
            f"the publication {settings.publication} does not exist",
            hint="`cdc-tracker setup` creates it. Changes made while it did not exist can no longer be decoded: `cdc-tracker "
            "repair` then says what is missing",
        )
    return sorted(present, reverse=True)


def options(plugin: str, publications: Sequence[str]) -> dict[str, str]:
    """Options of START_REPLICATION for a plugin."""
    return wal2json.options() if plugin == "wal2json" else pgoutput.options(",".join(map(quoted, publications)))
