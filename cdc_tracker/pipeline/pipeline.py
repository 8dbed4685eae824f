"""The pipeline of one destination: decodes a segment, maps its changes to events, and routes them."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from cdc_tracker.config.settings import OutboxSettings
from cdc_tracker.destinations.base import NOTHING_MORE, Requirements
from cdc_tracker.errors import Problem
from cdc_tracker.mapping import Mappings, Plan, compile_plan
from cdc_tracker.model import Change, Op, Position, Relation, Result, Segment
from cdc_tracker.pipeline.debezium_envelope import raw_key, raw_plan, row_key, with_row_key
from cdc_tracker.pipeline.decode import ChangeReader, readable
from cdc_tracker.pipeline.outbox import KEY as OUTBOX
from cdc_tracker.pipeline.outbox import OutboxReader
from cdc_tracker.pipeline.steps import Build, Step, through
from cdc_tracker.sources.postgres.values import codec


class Pipeline:
    """What one destination gets of a source's changes: events, rejections and suppressions.

    A pure function of a segment: the same segment always gives the same results. Live deliveries, jobs, retries, estimates,
    `diff` and `preview` all ask here.
    """

    def __init__(
        self,
        mappings: Mappings,
        *,
        outbox: OutboxSettings | None,
        namespace: uuid.UUID,
        database: str,
        destination: str | None = None,
        requirements: Requirements = NOTHING_MORE,
        steps: Iterable[Step | None] = (),
        only: Collection[str] | None = None,
    ) -> None:
        """`namespace`: of the event ids. `destination`: only mappings for it; None: all mappings.

        `requirements`: what the destination needs beyond mapped events. `steps`: of its settings, in order; None is no
        step. `only`: ledger keys (a mapping's, `outbox`, `raw:TABLE`) of the results to make; None: all.
        """
        if only is not None:
            mappings = Mappings(tuple(mapping for mapping in mappings.all if mapping.key in only))
            outbox = outbox if OUTBOX in only else None
        self._mappings, self._only = mappings, only
        self._namespace, self._database, self._destination = namespace, database, destination
        self._requirements = requirements
        self._steps = tuple(step for step in steps if step is not None)
        self._outbox = OutboxReader(outbox, namespace, database) if outbox and not requirements.raw else None
        self._reader = ChangeReader(self._wanted)
        self._builds: dict[int, dict[str, tuple[Build, ...]]] = {}  # by id(relation): its decoder keeps the relation alive
        self._register(None, {Op.MESSAGE.value: (self._outbox.from_message,)} if self._outbox else {}, self._steps)
        self.problems: list[Problem] = []  # of the mappings, with the relations decoded so far
        self.tables: set[str] = set()  # decoded so far, mapped or not

    def results(self, segment: Segment, after: Position, upto: Position | None = None) -> list[Result]:
        """Returns the results of the segment's changes after `after`, up to `upto` (None: the end), in order of position.

        The results of one change share its position. Raises Stop if the segment cannot be read.
        """
        found, _ = next(self.portions(segment, after, upto, size=sys.maxsize))
        return found

    def portions(
        self, segment: Segment, after: Position, upto: Position | None = None, *, size: int
    ) -> Iterator[tuple[list[Result], Position]]:
        """Yields `results` in portions of `size` changes, each with the position up to which it is complete."""
        builds = self._builds
        results: list[Result] = []
        count = 0
        with readable(segment):
            for change in self._reader.changes(segment, after, upto):
                for build in builds[id(change.relation)].get(change.op, ()):
                    result = build(change)
                    if result is not None:
                        results.append(result)
                count += 1
                if count == size:
                    yield results, change.position
                    results, count = [], 0
        yield results, segment.last if upto is None else min(upto, segment.last)

    def changes(self, segment: Segment, after: Position, upto: Position | None = None) -> Iterator[tuple[Change, list[Result]]]:
        """Yields every decoded change with its `results`, which may be empty."""
        builds = self._builds
        with readable(segment):
            for change in self._reader.changes(segment, after, upto):
                results = [build(change) for build in builds[id(change.relation)].get(change.op, ())]
                yield change, [result for result in results if result is not None]

    # Once for each relation that a decoder meets: its functions are compiled and composed with the steps.

    def _wanted(self, relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Returns the columns to decode of new and of old rows; None: none of its changes is decoded."""
        self.tables.add(relation.table)
        plan = self._plan(relation)
        if plan is None:
            return None
        self._report(*plan.problems)
        new, old, steps = plan.new_columns, plan.old_columns, self._steps
        if not self._requirements.raw and (key := self._row_key(relation)):
            new, old = ((*names, *(name for name in key if name not in names)) for names in (new, old))
            steps = (with_row_key(relation, key, new, old), *steps)
        self._register(relation, plan.by_op, steps)
        return new, old

    def _plan(self, relation: Relation) -> Plan | None:
        """Returns the functions that make events of the relation's changes, before the steps; None if there are none."""
        if self._requirements.raw:
            wanted = self._only is None or raw_key(relation.table) in self._only
            return raw_plan(relation, self._row_key(relation), self._database, self._namespace) if wanted else None
        if self._outbox is not None and relation.table == self._outbox.table:
            return Plan(self._outbox.columns, (), {Op.INSERT.value: (self._outbox.from_row,)})
        return compile_plan(
            self._mappings, relation, codec, space=self._namespace, database=self._database, destination=self._destination
        )

    def _row_key(self, relation: Relation) -> tuple[str, ...]:
        """Returns the columns of the row key; empty if there is none, or if the destination does not need it."""
        if not self._requirements.row_key:
            return ()
        key, problem = row_key(relation, self._requirements.key_columns)
        self._report(*([problem] if problem else []))
        return key

    def _register(self, relation: Relation | None, by_op: Mapping[str, Sequence[Build]], steps: Sequence[Step]) -> None:
        self._builds[id(relation)] = {op: tuple(through(build, steps) for build in builds) for op, builds in by_op.items()}

    def _report(self, *problems: Problem) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]
