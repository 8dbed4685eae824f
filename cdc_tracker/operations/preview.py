"""Live changes and their results, read through a temporary slot. Delivers nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from cdc_tracker.config.config import Config
from cdc_tracker.errors import Problem
from cdc_tracker.model import START, Change, Result, Segment
from cdc_tracker.operations.source import new_record
from cdc_tracker.pipeline import Pipeline, whole_changes
from cdc_tracker.pipeline.debezium_envelope import as_envelope
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.temporary_stream import TemporaryStream
from cdc_tracker.state import SourceRecord
from cdc_tracker.worker.assemble import build_pipeline, captured_tables, load_mappings, open_state, table_needs

_UNMAPPED = Need(frozenset({"insert"}), every_column=True)


class Previewed(NamedTuple):
    """A change and its results. `envelope`: Debezium's, as JSON text; only in a raw preview, which has no results."""

    change: Change
    results: list[Result]
    envelope: str = ""


@dataclass(frozen=True)
class Preview:
    """`publication`: made for the preview and dropped at its end; "" if none was needed. `problems`: of the tables."""

    tables: frozenset[str]
    plugin: str
    publication: str
    problems: list[Problem]
    _stream: TemporaryStream
    _pipeline: Pipeline

    def changes(self, *, raw: bool = False, seconds: float | None = None, count: int | None = None) -> Iterator[Previewed]:
        """Yields the tables' changes, and logical messages, as they are committed; ends after `seconds`, or `count` changes."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        seen = 0

        def ended() -> bool:
            return time.monotonic() >= deadline or seen == count

        for segment in self._stream.segments(ended):
            for change, results in self._results(segment, raw):
                if ended():
                    return
                if change.relation is None or change.relation.table in self.tables:
                    seen += 1
                    yield Previewed(change, results, as_envelope(change, self._stream.identity.database) if raw else "")

    def _results(self, segment: Segment, raw: bool) -> Iterator[tuple[Change, list[Result]]]:
        return ((change, []) for change in whole_changes(segment)) if raw else self._pipeline.changes(segment, START)


@contextmanager
def opened(config: Config, tables: Collection[str] = ()) -> Iterator[Preview]:
    """A preview of these tables; of every captured table if none is given. A running worker is not disturbed.

    Events have the ids that a run would give them, whether or not the source is set up. Raises MappingError, SourceError.
    """
    mappings = load_mappings(config)
    needs = table_needs(config, mappings)
    watched = frozenset(tables or captured_tables(config, mappings))
    wanted = {table: replace(needs.get(table, _UNMAPPED), every_change=True) for table in watched}
    with TemporaryStream(config.source, wanted) as stream:
        record = _record(config) or new_record(config, stream.identity, stream.plugin, stream.identity.wal_lsn)
        pipeline = build_pipeline(config, replace(record, database=stream.identity.database), None, mappings)
        yield Preview(watched, stream.plugin, stream.publication, stream.problems, stream, pipeline)


def _record(config: Config) -> SourceRecord | None:
    """What `setup` recorded, if it has run."""
    if not config.state.url and not (config.data / "state.sqlite").exists():
        return None
    with open_state(config, to_read=True) as state:
        return state.sources.get(config.source.name)
