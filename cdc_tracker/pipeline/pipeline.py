"""Segments → events: joins a decoder's rows with the functions that the mappings and the outbox make of them."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import msgspec

from cdc_tracker.config.settings import OutboxSettings
from cdc_tracker.destinations.base import NOTHING_MORE, Requirements
from cdc_tracker.envelope import default_name, id_maker
from cdc_tracker.errors import Problem, Stop
from cdc_tracker.mapping import Mappings, compile_plan
from cdc_tracker.model import RAW, START, UNCHANGED, UNLOGGED, Change, Event, Missing, Position, Rejection, Relation, Segment
from cdc_tracker.pipeline.debezium_envelope import envelope_writer, every_column, key_writer, row_key
from cdc_tracker.pipeline.outbox import KEY as OUTBOX
from cdc_tracker.pipeline.outbox import OutboxReader
from cdc_tracker.sources.postgres import pgoutput, snapshot, wal2json
from cdc_tracker.sources.postgres.segments import Decoder, Wanted
from cdc_tracker.sources.postgres.values import codec

Made: TypeAlias = Event | Rejection
Build: TypeAlias = Callable[[Change], Made | None]
Names: TypeAlias = tuple[str, ...]

_DECODERS: dict[str, Callable[[Wanted], Decoder]] = {
    "pgoutput": pgoutput.Decoder,
    "wal2json": wal2json.Decoder,
    "snapshot": snapshot.Decoder,
}
_EXCERPT = {"pgoutput": pgoutput.excerpt, "wal2json": wal2json.excerpt, "snapshot": snapshot.excerpt}
_MAPPED = "cudtr"  # operations that a mapping may name, as Op's letters


class Pipeline:
    """What one destination (None: any) is to be sent of a source's changes. Pure: the same segment gives the same events."""

    def __init__(
        self,
        mappings: Mappings,
        *,
        outbox: OutboxSettings | None,
        space: uuid.UUID,
        database: str,
        destination: str | None,
        wants: Requirements = NOTHING_MORE,
        only: Collection[str] | None = None,
    ) -> None:
        """`wants`: what the destination is given beyond events. `only`: the keys of what is made, as in the ledger; None: all."""
        if only is not None:
            mappings = Mappings(tuple(mapping for mapping in mappings.all if mapping.key in only))
            outbox = outbox if OUTBOX in only else None
        self._wants, self._only = wants, only
        if wants.raw:
            outbox = None
        self._mappings = mappings
        self._space = space
        self._database = database
        self._destination = destination
        self._make_id = id_maker(space)
        self._outbox = OutboxReader(outbox, space, database) if outbox else None
        self._outbox_table = outbox.table if outbox else None
        self._builds: dict[int, dict[str, tuple[Build, ...]]] = {}  # by the id of a relation, which its decoder keeps alive
        self._decoders: dict[str, Decoder] = {}  # by plugin
        self.problems: list[Problem] = []  # of the mappings against the relations met so far
        self.tables: set[str] = set()  # met so far, mapped or not

    def made(self, segment: Segment, after: Position) -> list[Made]:
        """The events and rejections of the segment's changes past `after`, in order; several of one change share its position."""
        found, _ = next(self.portions(segment, after, sys.maxsize))
        return found

    def portions(self, segment: Segment, after: Position, size: int) -> Iterator[tuple[list[Made], Position]]:
        """As `made`, in runs of `size` changes, each with the position that it reaches: to do other things between."""
        builds = self._builds
        found: list[Made] = []
        count = 0
        with _readable(segment):
            for change in self._changes(segment, after):
                if change.relation is None:
                    message = self._outbox.from_message(change) if self._outbox else None
                    if message is not None:
                        found.append(message)
                else:
                    for build in builds[id(change.relation)].get(change.op, ()):
                        made = build(change)
                        if made is not None:
                            found.append(made)
                count += 1
                if count == size:
                    yield found, change.position
                    found, count = [], 0
        yield found, segment.last

    def changes(self, segment: Segment, after: Position) -> Iterator[tuple[Change, list[Made]]]:
        """As `made`, with the change that each came of; changes without an event are given, too."""
        with _readable(segment):
            for change in self._changes(segment, after):
                if change.relation is None:
                    message = self._outbox.from_message(change) if self._outbox else None
                    yield change, [message] if message else []
                else:
                    found = [build(change) for build in self._builds[id(change.relation)].get(change.op, ())]
                    yield change, [made for made in found if made is not None]

    def _changes(self, segment: Segment, after: Position) -> Iterator[Change]:
        found = self._decoders.get(segment.plugin)
        if found is None:
            found = self._decoders[segment.plugin] = decoder(segment.plugin, self._wanted)
        return found.changes(segment, after)

    def _wanted(self, relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        self.tables.add(relation.table)
        if self._wants.raw:
            return self._wanted_raw(relation)
        if self._outbox is not None and relation.table == self._outbox_table:
            return self._register(relation, {"c": (self._outbox.from_row,)}, *self._outbox.columns, exact=True)
        plan = compile_plan(
            self._mappings, relation, codec, space=self._space, database=self._database, destination=self._destination
        )
        if plan is None:
            return None
        self.problems += [problem for problem in plan.problems if problem not in self.problems]
        return self._register(relation, {op: tuple(plan.by_op.get(op, ())) for op in _MAPPED}, plan.new_columns, plan.old_columns)

    def _register(
        self, relation: Relation, by_op: dict[str, tuple[Build, ...]], new: Names, old: Names, *, exact: bool = False
    ) -> tuple[Names, Names]:
        """Keep the functions of a relation, and say which columns they need. `exact`: they must not get more than those."""
        if self._wants.row_key:
            key = self._row_key(relation)
            width = len(new) if exact else None
            new, old = ((*names, *(name for name in key if name not in names)) for names in (new, old))
            write = key_writer(relation, key, new, old)
            by_op = {op: tuple(_keyed(build, write, width) for build in builds) for op, builds in by_op.items()}
        self._builds[id(relation)] = by_op
        return new, old

    def _row_key(self, relation: Relation) -> Names:
        found = row_key(relation, self._wants.key_columns)
        if found.problem is not None and found.problem not in self.problems:
            self.problems.append(found.problem)
        return found.columns

    def _wanted_raw(self, relation: Relation) -> tuple[Names, Names] | None:
        """Every operation, with every column."""
        key = f"{RAW}:{relation.table}"
        if self._only is not None and key not in self._only:
            return None
        columns, _ = every_column(relation)
        write = envelope_writer(relation, self._database)
        keys = key_writer(relation, self._row_key(relation) if self._wants.row_key else (), columns, columns)
        make_id = self._make_id

        def build(change: Change) -> Made:
            if relation.incomplete and (lacking := _lacking(change)):
                why = f"a column is not known: {lacking.why}"
                return Rejection(lacking.reason, key, change.position, change.transaction.committed_at, detail=why)
            message_id, committed_at = make_id(default_name(RAW, change)), change.transaction.committed_at
            return Event(message_id, RAW, write(change).encode(), key, change.position, committed_at, *keys(change))

        self._builds[id(relation)] = dict.fromkeys(_MAPPED, (build,))
        return columns, columns


def _lacking(change: Change) -> Missing | None:
    """Why a cell is not there, where that is not the replica identity's doing."""
    cells = (*(change.new or ()), *(change.old or ()))
    return next((cell for cell in cells if isinstance(cell, Missing) and cell not in (UNCHANGED, UNLOGGED)), None)


def _keyed(build: Build, write: Callable[[Change], tuple[bytes, bytes]], width: int | None) -> Build:
    """What the function makes, with the row's key. `width`: of the new row that it takes."""

    def keyed(change: Change) -> Made | None:
        narrow = change if width is None else msgspec.structs.replace(change, new=(change.new or ())[:width])
        made = build(narrow)
        if not isinstance(made, Event):
            return made
        return Event(made.message_id, made.type, made.body, made.mapping, made.position, made.committed_at, write(change)[0])

    return keyed


def whole_changes(segment: Segment) -> Iterator[Change]:
    """Every change of a segment with every column."""
    return decoder(segment.plugin, every_column).changes(segment, START)


def decoder(plugin: str, wanted: Wanted) -> Decoder:
    """The decoder of a plugin's segments. Raises Stop for a plugin that is not known."""
    if plugin not in _DECODERS:
        raise Stop(f"a segment was made by the plugin {plugin!r}, which this version does not know")
    return _DECODERS[plugin](wanted)


@contextmanager
def _readable(segment: Segment) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError) as error:
        raise Stop(
            f"a segment of {segment.plugin} frames at {segment.first} cannot be read: {error!r}",
            hint="the journal is damaged or was written by another version; `cdc-tracker rewind` past it loses its events",
        ) from error


def excerpts(segment: Segment, positions: set[Position]) -> dict[Position, Segment]:
    """A segment of its own for each single change: what a dead letter keeps, so that it can be made into an event again."""
    return _EXCERPT[segment.plugin](segment, positions)
