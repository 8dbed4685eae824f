"""Segments → events: joins a decoder's rows with the functions that the mappings and the outbox make of them."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from cdc_tracker.errors import Problem, Stop
from cdc_tracker.mapping import Mappings, compile_plan
from cdc_tracker.model import Change, Event, Position, Rejection, Relation, Segment
from cdc_tracker.source import pgoutput, snapshot, wal2json
from cdc_tracker.source.outbox import OutboxReader
from cdc_tracker.source.segments import Decoder, Wanted
from cdc_tracker.source.settings import OutboxSettings
from cdc_tracker.source.values import codec

Made: TypeAlias = Event | Rejection
Build: TypeAlias = Callable[[Change], Made | None]

_DECODERS: dict[str, Callable[[Wanted], Decoder]] = {
    "pgoutput": pgoutput.Decoder,
    "wal2json": wal2json.Decoder,
    "snapshot": snapshot.Decoder,
}
_EXCERPT = {"pgoutput": pgoutput.excerpt, "wal2json": wal2json.excerpt, "snapshot": snapshot.excerpt}
_MAPPED = "cudtr"  # operations that a mapping may name, as Op's letters


class Translator:
    """What one destination (None: any) is to be sent of a source's changes. Pure: the same segment gives the same events."""

    def __init__(
        self, mappings: Mappings, *, outbox: OutboxSettings | None, space: uuid.UUID, database: str, destination: str | None
    ) -> None:
        self._mappings = mappings
        self._space = space
        self._database = database
        self._destination = destination
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
        if self._outbox is not None and relation.table == self._outbox_table:
            self._builds[id(relation)] = {"c": (self._outbox.from_row,)}
            return self._outbox.columns
        plan = compile_plan(
            self._mappings, relation, codec, space=self._space, database=self._database, destination=self._destination
        )
        if plan is None:
            return None
        self.problems += plan.problems
        self._builds[id(relation)] = {op: tuple(plan.by_op.get(op, ())) for op in _MAPPED}
        return plan.new_columns, plan.old_columns


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
