"""Stream a database's changes into frames, segments and Changes, as capture and delivery do, for tests.

`Tap` is a publication and a slot, read through source.session.Session. Reading confirms nothing, so that the same WAL can be read
again and again, and by both plugins.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from psycopg import sql
from pydantic import SecretStr

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.model import START, Change, Lsn, Position, Relation, Segment, Text, Transaction, parse_lsn
from cdc_tracker.sources.postgres import pgoutput, slot, wal2json
from cdc_tracker.sources.postgres.decoding import Decoder, Wanted
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.publication import ALL_OPERATIONS
from cdc_tracker.sources.postgres.segments import PAYLOAD, SegmentBuilder
from cdc_tracker.sources.postgres.session import Session
from tests.postgres import Database

PUBLICATION = "tap"
SECONDS = 30.0
MODULES = {"pgoutput": pgoutput, "wal2json": wal2json}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a Change says, with cells by name: equal where two Changes are, and easy to read where they are not."""

    op: str
    table: str | None
    new: Mapping[str, object] | None
    old: Mapping[str, object] | None
    position: Position
    lsn: Lsn
    index: int
    transaction: Transaction
    prefix: str
    content: Text

    @property
    def where(self) -> tuple[object, ...]:
        """All that names the change."""
        return self.op, self.position, self.lsn, self.index, self.transaction


def every_column(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wanted: all of both rows."""
    names = tuple(column.name for column in relation.columns)
    return names, names


def seen(change: Change) -> Seen:
    """For changes decoded with `every_column`."""
    names = [column.name for column in change.relation.columns] if change.relation else []

    def cells(row: Sequence[object] | None) -> dict[str, object] | None:
        return None if row is None else dict(zip(names, row, strict=True))

    table = change.relation.table if change.relation else None
    new, old = cells(change.new), cells(change.old)
    return Seen(
        change.op, table, new, old, change.position, change.lsn, change.index, change.transaction, change.prefix, change.content
    )


def decoder(plugin: str, wanted: Wanted = every_column) -> Decoder:
    made: Decoder = MODULES[plugin].Decoder(wanted)
    return made


def decode(segments: Iterable[Segment], after: Position = START) -> list[Change]:
    """Every segment with a decoder of its own: what one needs, it must carry."""
    return [change for segment in segments for change in decoder(segment.plugin).changes(segment, after)]


def read(segments: Iterable[Segment]) -> list[Seen]:
    return [seen(change) for change in decode(segments)]


def gather(frames: Iterable[bytes], builder: SegmentBuilder) -> list[Segment]:
    """Frames → segments, closed where the builder says that one is full, and at the end."""
    segments = []
    for frame in frames:
        builder.add(memoryview(frame))
        if builder.full:
            segments.append(builder.close())
    segments.append(builder.close())
    return [segment for segment in segments if segment is not None]


class Tap:
    """A slot of one plugin on a database, and the tables (`schema.table`) that are captured."""

    def __init__(self, database: Database, plugin: str, tables: Sequence[str]) -> None:
        self.database, self.plugin = database, plugin
        self.tables = frozenset(tables)
        self.settings = SourceSettings(
            url=SecretStr(database.url), slot=f"{database.name}_{plugin}", publication=PUBLICATION, outbox=None
        )
        with database.connect() as connection:
            self.created = slot.create(connection, self.settings.slot, plugin).confirmed_flush_lsn or 0
        self._session = self.session()

    def session(self) -> Session:
        """One more session with the source; the caller closes it."""
        return Session(self.settings, {table: Need(ALL_OPERATIONS) for table in self.tables})

    def close(self) -> None:
        self._session.close()

    def capture(self, *tables: str) -> None:
        """From now on with these tables, too."""
        self.tables |= set(tables)
        self._session.close()
        self._session = self.session()

    def builder(self, after: Position = START, *, like: Iterable[Segment] = ()) -> SegmentBuilder:
        """`like`: segments made of the same frames before, so that the catalog need not be asked again."""
        if self.plugin == "pgoutput" or not like:
            return self._session.builder(after)
        payloads = {payload for segment in like for payload in segment.relations}
        found = [msgspec.json.decode(payload, type=wal2json.Description) for payload in payloads]
        known = {(described.schema, described.table): described for described in found}
        return wal2json.Builder(after, lambda schema, table: known.get((schema, table)))

    def frames(self, since: Lsn = 0) -> list[bytes]:
        """Every frame of what was committed past `since`, until now."""
        with self.session() as session:
            return list(arriving(session, max(since, self.created), flushed(self.database)))

    def segments(self, since: Lsn = 0) -> list[Segment]:
        return gather(self.frames(since), self.builder())

    def read(self, since: Lsn = 0) -> list[Seen]:
        return read(self.segments(since))


def flushed(database: Database) -> Lsn:
    return parse_lsn(str(database.value("SELECT pg_current_wal_flush_lsn()")))


def arriving(session: Session, since: Lsn, until: Lsn) -> Iterator[bytes]:
    """Frames as they come, to the end of the last transaction that committed before `until`."""
    stream = session.start(since)
    deadline = time.monotonic() + SECONDS
    open_transaction = False
    while open_transaction or stream.wal_end < until:
        assert time.monotonic() < deadline, "the server does not send what it has"
        frame = stream.receive()
        if frame is None:
            stream.feedback(0, 0, ask=True)  # the answer's WAL end says how far the stream is
            stream.wait(0.2)
            continue
        deadline = time.monotonic() + SECONDS
        begins, ends = (b"B", b"C") if session.plugin == "pgoutput" else (b'{"action":"B"', b'{"action":"C"')
        payload = frame[PAYLOAD : PAYLOAD + len(begins)]
        open_transaction = payload == begins or (open_transaction and payload != ends)
        yield bytes(frame)


@contextmanager
def tapped(database: Database, plugins: Sequence[str], tables: Sequence[str], *, generated: bool = False) -> Iterator[list[Tap]]:
    """A publication of `tables`, which exist, and a tap of each plugin, in the order given."""
    names = [sql.Identifier(*table.split(".", 1)) for table in tables]
    options = "publish_via_partition_root = true" + (", publish_generated_columns = stored" if generated else "")
    with database.connect() as connection:
        connection.execute(
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH ({})").format(
                sql.Identifier(PUBLICATION),
                sql.SQL(", ").join(names),
                sql.SQL(options),
            )
        )
    taps: list[Tap] = []
    try:
        for plugin in plugins:
            taps.append(Tap(database, plugin, tables))
        yield taps
    finally:
        for tap in taps:
            tap.close()


def agreed(taps: Sequence[Tap], since: Lsn = 0) -> list[Seen]:
    """What was committed past `since`, which every tap must tell alike."""
    first, *others = [tap.read(since) for tap in taps]
    for other in others:
        assert other == first
    return first
