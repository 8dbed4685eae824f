"""Why events of a mapping came or did not: what became of each change of its table, over a range of the journal. Sends nothing.

The verdict is the pipeline's: the mapping runs in it beside one mapping for each part of its `when`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as Dict
from itertools import zip_longest
from typing import NamedTuple

from cdc_tracker.config.config import Config
from cdc_tracker.config.nearest import nearest
from cdc_tracker.delivery.points import EARLIEST, Target, range_of
from cdc_tracker.errors import InvalidRequest, Stop
from cdc_tracker.journal import Journal, segments_between
from cdc_tracker.mapping import Mapping, Mappings, Placed, alone, parts, texts
from cdc_tracker.model import START, Change, Event, Lsn, Op, Position, Rejection, Relation, Result, Segment, Text, canonical
from cdc_tracker.operations import named
from cdc_tracker.operations.explained import Cause, Explained, Explanation, Failed, MappingExplained, Verdict
from cdc_tracker.operations.masking import Personal, computed
from cdc_tracker.operations.receipts import Fates
from cdc_tracker.operations.rows import Rows, Value
from cdc_tracker.pipeline import ChangeReader, Pipeline, readable
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.state import State
from cdc_tracker.worker.assemble import build_pipeline, load_mappings, source_record, table_needs

OPERATIONS = {Op.INSERT.value: "insert", Op.UPDATE.value: "update", Op.DELETE.value: "delete", Op.TRUNCATE.value: "truncate"}
_ROW_CHANGES = ("insert", "update", "delete")
_KINDS = ("event", "rejected", "condition", "operation")


class Chosen(NamedTuple):
    """Which changes to explain; by default all. `lsn`: a change's or its commit's; with `ordinal`, a position. `key`: column →
    value as text, in the new or the old row."""

    lsn: Lsn | None = None
    ordinal: int | None = None
    key: Dict[str, str] = {}

    def at(self, change: Change) -> bool:
        """Whether the change is at the LSN or position, if there is one."""
        if self.ordinal is not None:
            return change.position == (self.lsn, self.ordinal)
        return self.lsn is None or self.lsn in (change.lsn, change.transaction.commit_lsn)


EVERY = Chosen()


def explain(
    config: Config,
    state: State,
    journal: Journal,
    event: str,
    *,
    chosen: Chosen = EVERY,
    start: Target | None = None,
    end: Target | None = None,
    limit: int = 20,
    advance: Callable[[], None] = lambda: None,
) -> Explanation:
    """Explains every mapping with this key or name, over a range of the journal, which ends at the journal's present end.

    Reads a few segments at a time: memory depends on `limit`, the number of changes shown for each mapping, not on the range.
    Calls `advance` after each segment. Raises InvalidRequest for an unknown event or column, MappingError, StateMissing, and Stop
    if the range ends before the journal or begins after it.
    """
    mappings, record = load_mappings(config), source_record(config, state)
    keys = named.events(mappings.all, [event])
    watched = [_Watched(place, mapping, limit) for place, mapping in enumerate(mappings.all) if mapping.key in keys]
    for each in watched:
        if config.source.outbox and each.mapping.table == config.source.outbox.table:
            raise Stop(
                f"{each.mapping.table} is the outbox: its rows are events already, and no mapping applies to them.",
                hint="`cdc-tracker events outbox` shows them. To map the table, set source.outbox.table to another one.",
            )
    found = Explanation([each.found for each in watched])
    personal = Personal(mappings.all)
    pipeline = build_pipeline(config, record, None, Mappings(tuple(one for each in watched for one in each.mappings)))
    if not _range(found, journal, start or EARLIEST if chosen.lsn is None else Target(lsn=chosen.lsn), end):
        return found
    _read(found, journal, pipeline, watched, chosen, advance)
    rows = Rows(journal, {each.mapping.table for each in watched}, personal)
    details = _Details(rows, personal, Fates(config, state, record, mappings, personal))
    current, needs = texts(config.mapping_paths), table_needs(config, mappings)
    sent = {name: state.in_hand.get(record.name, name).mappings for name in config.destinations}
    for each in watched:
        each.found.shown = [details.of(each, verdict) for verdict in each.newest()]
        file = each.mapping.where.rpartition(":")[0]
        need = needs[each.mapping.table]
        each.found.uncaptured = [] if need.every_change else [on for on in _ROW_CHANGES if on not in need.operations]
        each.found.changed = [name for name, with_ in sent.items() if with_ and with_.get(file) != current.get(file)]
    return found


class _Watched:
    """One mapping to explain. `mappings`: itself, and one for each part of its `when`."""

    def __init__(self, place: int, mapping: Mapping, limit: int) -> None:
        self.mapping, self._limit = mapping, limit
        self.found = MappingExplained(mapping, parts(mapping))
        self._parts = [f"{place}\0{number}" for number in range(len(self.found.parts))]
        self.mappings = [mapping, *(alone(mapping, part, key) for part, key in zip(self.found.parts, self._parts, strict=True))]
        self._kept: dict[Cause, deque[Verdict]] = {}

    def take(self, change: Change, results: Dict[str, Result]) -> None:
        """Counts a change of the mapping's table."""
        verdict = self._verdict(change, results)
        self.found.counts[verdict.cause] += 1
        self._kept.setdefault(verdict.cause, deque(maxlen=self._limit)).append(verdict)

    def _verdict(self, change: Change, results: Dict[str, Result]) -> Verdict:
        op, result = OPERATIONS.get(change.op, change.op), results.get(self.mapping.key)
        head = (change.position, change.lsn, op, change.transaction.timestamp)
        if isinstance(result, Event):
            return Verdict(*head, Cause("event", self._name(result)), (), result)
        failed = tuple(self._failed(results))
        if isinstance(result, Rejection):
            errors = tuple(each for each in failed if each.error) if result.field == "when" else ()
            return Verdict(*head, Cause("rejected", result.reason, Personal.general(result.field)), errors, result)
        if op not in self.mapping.on:
            return Verdict(*head, Cause("operation", op))
        return Verdict(*head, Cause("condition", part=next(each.part for each in failed if not each.error)), failed)

    def _name(self, event: Event) -> str:
        """The event's name, if the row chooses it."""
        return str(event.decoded()[self.mapping.name_key]) if self.mapping.naming is not None else ""

    def _failed(self, results: Dict[str, Result]) -> Iterator[Failed]:
        for number, key in enumerate(self._parts):
            part = results.get(key)
            if part is None or (isinstance(part, Rejection) and part.field == "when"):
                yield Failed(number, f"{part.reason}: {part.detail}" if part else "")

    def newest(self) -> list[Verdict]:
        """Returns `limit` verdicts by position: the newest of each cause in turn, so that one event among thousands is shown."""
        kept = [self._kept[cause] for cause in sorted(self._kept, key=lambda cause: _KINDS.index(cause.kind))]
        turns = zip_longest(*(reversed(each) for each in kept))
        newest = [verdict for turn in turns for verdict in turn if verdict is not None]
        return sorted(newest[: self._limit], key=lambda verdict: verdict.position)


def _range(found: Explanation, journal: Journal, start: Target, end: Target | None) -> bool:
    """Sets the range. Returns False if the journal is empty."""
    horizon = journal.horizon()
    if horizon is None:
        return False
    found.begins = horizon.first_time
    earlier = start.lsn is not None and start.lsn < horizon.start.commit_lsn
    found.clipped = earlier or (start.time_us is not None and start.time_us < horizon.first_time)
    found.after, found.upto = range_of(journal, EARLIEST if found.clipped else start, end, horizon.last)
    return True


def _read(
    found: Explanation,
    journal: Journal,
    pipeline: Pipeline,
    watched: Sequence[_Watched],
    chosen: Chosen,
    advance: Callable[[], None],
) -> None:
    """Reads the range, and counts each chosen change for the mappings of its table. Sets the gaps and the problems."""
    after, upto = found.after or START, found.upto or START
    keyed = _Keyed({each.mapping.table for each in watched}, chosen.key) if chosen.key else None
    commit: Lsn | None = None  # of a change at the LSN that was asked for: all changes there are of one transaction
    for segment, begin in segments_between(journal, after, upto, on_gap=found.gaps.append):
        positions = keyed.positions(segment, begin, upto) if keyed else None
        for change, results in pipeline.changes(segment, begin, upto) if positions is None or positions else ():
            if not chosen.at(change) or (positions is not None and change.position not in positions):
                continue
            commit = change.transaction.commit_lsn
            made = {result.mapping: result for result in results}
            for each in watched:
                if change.relation is not None and change.relation.table == each.mapping.table:
                    each.take(change, made)
        advance()
        if chosen.lsn is not None and commit is not None and segment.last.commit_lsn > commit:
            break
    found.problems = pipeline.problems
    if keyed:
        keyed.check()


class _Keyed:
    """Finds the changes whose new or old row has the given values, as PostgreSQL prints them or as JSON has them."""

    def __init__(self, tables: set[str], key: Dict[str, str]) -> None:
        self._tables, self._key = tables, key
        self._reader = ChangeReader(self._wanted)
        self._known, self._unknown = False, ""

    def _wanted(self, relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        if relation.table not in self._tables:
            return None
        columns = [column.name for column in relation.columns]
        if lacking := [name for name in self._key if name not in columns]:  # perhaps added to the table later
            self._unknown = f"the journal has no column {lacking[0]!r} of {relation.table}{nearest(lacking[0], columns)}"
            return None
        self._known = True
        names = tuple(name for name in columns if name in self._key)  # in the relation's order, as decoders need them
        return names, names

    def positions(self, segment: Segment, after: Position, upto: Position) -> set[Position]:
        """Returns the positions of such changes."""
        with readable(segment):
            return {change.position for change in self._reader.changes(segment, after, upto) if self._has(change)}

    def check(self) -> None:
        """Raises InvalidRequest if no row that was read has the columns."""
        if self._unknown and not self._known:
            raise InvalidRequest(self._unknown)

    def _has(self, change: Change) -> bool:
        relation = change.relation
        if relation is None:
            return False
        types = [(column.name, column.type_oid) for column in relation.columns if column.name in self._key]
        return any(
            row is not None and all(_is(cell, oid, self._key[name]) for cell, (name, oid) in zip(row, types, strict=True))
            for row in (change.new, change.old)
        )


def _is(cell: Text, type_oid: int, wanted: str) -> bool:
    if not isinstance(cell, str):
        return False
    return cell == wanted or codec(type_oid).to_json(cell) in (wanted, canonical(wanted))


class _Details:
    """Adds to verdicts what the journal and the state store have of their changes."""

    def __init__(self, rows: Rows, personal: Personal, fates: Fates) -> None:
        self._rows, self._personal, self._fates = rows, personal, fates

    def of(self, watched: _Watched, verdict: Verdict) -> Explained:
        """Returns the verdict with its details, if the journal still has the change."""
        found, result = self._rows.at(verdict.position), verdict.result
        if found is None:
            return Explained(verdict, gone=True)
        segment, change = found
        read = [watched.found.parts[each.part] for each in verdict.failed]
        detail = ""
        if isinstance(result, Rejection):
            path = Personal.general(result.field)
            read = read or [placed for place, placed in computed(watched.mapping) if place == path]
            detail = "" if self._personal.hides(result.mapping, result.field) else result.detail
        fates = self._fates.of(watched.mapping, result, segment) if result is not None else ()
        values = self._values(change, watched.mapping, read)
        return Explained(verdict, tuple(self._rows.key(change)), tuple(values), detail, tuple(fates))

    def _values(self, change: Change, mapping: Mapping, read: Iterable[Placed]) -> Iterator[Value]:
        for row, name in dict.fromkeys((use.row, use.name) for placed in read for use in mapping.uses(placed)):
            yield self._rows.value(change, "new" if row == "new" else "old", name)
