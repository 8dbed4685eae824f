"""Compares the results of two sets of mappings over a range of the journal: what is added, removed, changed. Sends nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.points import Target, range_of
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.mapping import Mapping, Mappings
from cdc_tracker.model import START, Event, Position, Rejection, Segment, canonical
from cdc_tracker.operations import named
from cdc_tracker.operations.masking import Masks, flattened
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import SourceRecord, State
from cdc_tracker.worker.assemble import build_pipeline, load_mappings, source_record

Kind = Literal["added", "removed", "changed", "rejected"]
MAX_PATHS = 200  # paths of changed values counted for an event: keys made of data would have no bound
OPERATIONS = {"insert": "c", "update": "u", "delete": "d"}
_OTHERS = "others"
_NOTHING = "Its changes are captured now: none happened, or they were not captured then."
_NOT_CAPTURED = (
    "No mapping in force reads that, so it is not captured. `cdc-tracker setup` with the new mappings captures it from then on; "
    "`backfill` reads the rows that are there."
)
_ById: TypeAlias = dict[tuple[Position, str], Event]


class Cell(NamedTuple):
    """One value of an event on both sides, as JSON text; None: not there. `hidden`: it is personal, and masked."""

    path: str
    old: str | None
    new: str | None
    hidden: bool = False


@dataclass(frozen=True)
class Sample:
    """One event that differs. If it is added or removed, its cells have one side only; if it is rejected, it has none."""

    kind: Kind
    position: Position
    committed_at: int
    message_id: str
    cells: tuple[Cell, ...]
    reason: str = ""  # of a rejection, with the field and a detail
    field: str = ""
    detail: str = ""


@dataclass
class EventDifference:
    """Counts of one event. `renamed`: how many of those added replace a removed one of the same change, with another id."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    renamed: int = 0
    before: Counter[str] = field(default_factory=Counter)  # rejections by reason
    after: Counter[str] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)  # path of a changed value → in how many events
    samples: dict[Kind, list[Sample]] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        return bool(self.added or self.removed or self.changed) or self.before != self.after


@dataclass
class Difference:
    """`events`: by mapping key, in the order of the files. `missing`: a sentence for each table that the journal lacks."""

    after: Position
    upto: Position
    changes: int = 0  # of tables that the new mappings name
    events: dict[str, EventDifference] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        return any(event.differs for event in self.events.values())


class Side(NamedTuple):
    """Mappings and their pipeline, without an outbox: outbox events do not depend on mappings."""

    mappings: Mappings
    pipeline: Pipeline


def compare(
    config: Config,
    state: State,
    journal: Journal,
    files: Sequence[Path],
    start: Target,
    end: Target | None = None,
    *,
    destination: str | None = None,
    events: Sequence[str] = (),
    samples: int = 3,
    advance: Callable[[], None] = lambda: None,
) -> Difference:
    """Compares the mappings in force with those of other files, over a range of the journal. See `difference`.

    `end`: None: the end of the journal. `destination`: only mappings for it. `events`: only these, by key or name.

    Raises InvalidRequest for unknown names, MappingError, and Stop if the journal does not have the range or the destination gets
    raw changes.
    """
    if destination is not None and named.destination(config, destination).requirements.raw:
        raise Stop(
            f"The destination {destination!r} gets the changes as they are: no mapping makes any difference to it.",
            hint="Leave out --destination to compare the events.",
        )
    current = load_mappings(config)
    other = load_mappings(config.model_copy(update={"mappings": [path.absolute() for path in files]}))
    keys = named.events([*current.all, *other.all], events)
    record = source_record(config, state)
    before, after = (_side(config, record, mappings, keys, destination) for mappings in (current, other))
    begin, upto = range_of(journal, start, end, journal.end() or START)
    return difference(before, after, journal, begin, upto, captured=current, samples=samples, advance=advance)


def _side(config: Config, record: SourceRecord, mappings: Mappings, keys: Sequence[str], destination: str | None) -> Side:
    chosen = Mappings(tuple(each for each in mappings.all if each.key in keys and each.goes_to(destination)))
    return Side(chosen, build_pipeline(config, record, None, chosen, only=chosen.keys()))


def difference(
    before: Side,
    after: Side,
    journal: Journal,
    start: Position,
    upto: Position,
    *,
    captured: Mappings,
    samples: int,
    advance: Callable[[], None] = lambda: None,
) -> Difference:
    """Reads the range, a few segments at a time, under both mappings. Memory does not depend on its length.

    `captured`: all mappings in force, whichever are compared: what they read is captured now. `samples`: of each kind at most.
    """
    keys = dict.fromkeys([*before.mappings.keys(), *after.mappings.keys()])
    found = Difference(start, upto, events={key: EventDifference() for key in keys})
    comparing = _Comparing(found, before, after, samples)
    for segment, begin in segments_between(journal, start, upto):
        comparing.take(segment, begin)
        advance()
    found.missing = list(_missing(before, after, captured, comparing.seen))
    return found


class _Comparing:
    def __init__(self, found: Difference, before: Side, after: Side, samples: int) -> None:
        self.found = found
        self.before, self.after = before.pipeline, after.pipeline
        self.seen: set[tuple[str, str]] = set()  # table and operation
        self._samples = samples
        self._masks = Masks([*before.mappings.all, *after.mappings.all])

    def take(self, segment: Segment, begin: Position) -> None:
        """Compares by position and messageId: one change makes at most one event of an id."""
        events = self.found.events
        old, old_rejected, _ = self._results(self.before, segment, begin)
        new, new_rejected, changes = self._results(self.after, segment, begin)
        self.found.changes += changes
        for each in old_rejected.values():
            events[each.mapping].before[each.reason] += 1
        for place, each in new_rejected.items():
            events[each.mapping].after[each.reason] += 1
            if place not in old_rejected:
                self._rejected(each)
        removed = {(event.position, event.mapping) for place, event in old.items() if place not in new}
        for place, event in old.items():
            if place not in new:
                events[event.mapping].removed += 1
                self._one_sided("removed", event)
        for place, event in new.items():
            counts, other = events[event.mapping], old.get(place)
            if other is None:
                counts.added += 1
                counts.renamed += (event.position, event.mapping) in removed
                self._one_sided("added", event)
            elif other.body == event.body or not self._changed(other, event):
                counts.unchanged += 1

    def _results(
        self, pipeline: Pipeline, segment: Segment, begin: Position
    ) -> tuple[_ById, dict[tuple[Position, str], Rejection], int]:
        """Returns events by id, rejections by mapping, and the number of row changes."""
        events: _ById = {}
        rejected: dict[tuple[Position, str], Rejection] = {}
        changes = 0
        for change, results in pipeline.changes(segment, begin, self.found.upto):
            if change.relation is not None:
                changes += 1
                self.seen.add((change.relation.table, change.op))
            for each in results:
                if isinstance(each, Event):
                    events[each.position, each.message_id] = each
                elif isinstance(each, Rejection):
                    rejected[each.position, each.mapping] = each
        return events, rejected, changes

    # Samples

    def _wanted(self, kind: Kind, key: str) -> list[Sample] | None:
        kept = self.found.events[key].samples.setdefault(kind, [])
        return kept if len(kept) < self._samples else None

    def _one_sided(self, kind: Literal["added", "removed"], event: Event) -> None:
        kept = self._wanted(kind, event.mapping)
        if kept is not None:
            flat = flattened(event.decoded())
            old, new = (flat, {}) if kind == "removed" else ({}, flat)
            cells = [self._cell(event, path, old, new) for path in flat]
            kept.append(self._sample(kind, event, cells))

    def _changed(self, old: Event, new: Event) -> bool:
        """Counts a changed event. Returns False if only the order of members differs, which has no meaning in JSON."""
        before, after = flattened(old.decoded()), flattened(new.decoded())
        paths = [path for path in dict.fromkeys([*before, *after]) if _text(before, path) != _text(after, path)]
        if not paths:
            return False
        counts = self.found.events[new.mapping]
        counts.changed += 1
        for path in dict.fromkeys(self._masks.general(path) for path in paths):
            counts.paths[path if path in counts.paths or len(counts.paths) < MAX_PATHS else _OTHERS] += 1
        kept = self._wanted("changed", new.mapping)
        if kept is not None:
            cells = [self._cell(new, path, before, after) for path in paths]
            kept.append(self._sample("changed", new, cells))
        return True

    def _rejected(self, each: Rejection) -> None:
        kept = self._wanted("rejected", each.mapping)
        if kept is not None:
            detail = "" if self._masks.hides(each.mapping, each.field) else each.detail  # it may quote the value
            kept.append(Sample("rejected", each.position, each.committed_at, each.event_id, (), each.reason, each.field, detail))

    def _cell(self, event: Event, path: str, old: dict[str, Any], new: dict[str, Any]) -> Cell:
        hidden = self._masks.hides(event.mapping, path)
        before, after = (Masks.HIDDEN if hidden and path in side else _text(side, path) for side in (old, new))
        return Cell(path, before, after, hidden)

    def _sample(self, kind: Kind, event: Event, cells: list[Cell]) -> Sample:
        return Sample(kind, event.position, event.committed_at, event.message_id, tuple(cells))


def _text(values: dict[str, Any], path: str) -> str | None:
    return canonical(values[path]) if path in values else None


def _missing(before: Side, after: Side, captured: Mappings, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yields why mappings made no event: the journal has no change that they read."""
    for table in after.mappings.tables():
        mappings = after.mappings.for_table(table)
        now = {on for mapping in captured.for_table(table) for on in mapping.on}
        if table not in after.pipeline.tables:
            yield f"{_named(mappings)}: the journal has no change of {table} in this range. {_NOTHING if now else _NOT_CAPTURED}"
            continue
        for on in dict.fromkeys(on for mapping in mappings for on in mapping.on):
            if on not in now and (table, OPERATIONS[on]) not in seen:
                of = _named([mapping for mapping in mappings if on in mapping.on])
                yield f"{of}: the journal has no {on} of {table} in this range. {_NOT_CAPTURED}"
    known = {problem.message for problem in before.pipeline.problems}
    yield from dict.fromkeys(str(problem) for problem in after.pipeline.problems if problem.message not in known)


def _named(mappings: Sequence[Mapping]) -> str:
    return ", ".join(mapping.key for mapping in mappings)
