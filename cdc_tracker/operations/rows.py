"""Rows of changes in the journal, for display: every column, personal values masked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Change, Missing, Position, Relation, Segment
from cdc_tracker.operations.masking import Personal
from cdc_tracker.pipeline import ChangeReader, readable
from cdc_tracker.pipeline.debezium_envelope import every_column, row_key

_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Value(NamedTuple):
    """A column's value as JSON text. `missing`: why the change does not have it; `json` is empty then."""

    row: Literal["new", "old"]
    column: str
    json: str
    missing: str = ""

    @property
    def label(self) -> str:
        """As an expression names it: `new.state`."""
        return f"{self.row}.{self.column}" if _SIMPLE.fullmatch(self.column) else f'{self.row}["{self.column}"]'


class Rows:
    """Reads changes of some tables with every column."""

    def __init__(self, journal: Journal, tables: Collection[str], personal: Personal) -> None:
        self._journal, self._personal = journal, personal
        self._segment: Segment | None = None  # that of the last `at`: neighbours are often in the same one
        self._reader = ChangeReader(lambda relation: every_column(relation) if relation.table in tables else None)

    def changes(self, segment: Segment, after: Position = START, upto: Position | None = None) -> Iterator[Change]:
        """Yields the tables' changes after `after`, up to `upto`, with every column. Raises Stop if they cannot be read."""
        with readable(segment):
            yield from self._reader.changes(segment, after, upto)

    def at(self, position: Position) -> tuple[Segment, Change] | None:
        """Returns the change at the position and its segment; None if the journal does not have it any more."""
        if self._segment is None or not self._segment.first <= position <= self._segment.last:
            self._segment = next(iter(self._journal.read(position.before, 1)), None)
        if self._segment is None:
            return None
        found = (each for each in self.changes(self._segment, position.before, position) if each.position == position)
        return next(((self._segment, change) for change in found), None)

    def row(self, change: Change, row: Literal["new", "old"]) -> list[Value]:
        """Returns every column of the new or the old row, in the table's order; empty if the change has no such row."""
        if change.relation is None or getattr(change, row) is None:
            return []
        return [self.value(change, row, column.name) for column in change.relation.columns]

    def value(self, change: Change, row: Literal["new", "old"], column: str) -> Value:
        """Returns one column of a change that has every column."""
        cells = change.new if row == "new" else change.old
        if cells is None or change.relation is None:
            return Value(row, column, "", f"the change has no {row} row")
        place = next((place for place, each in enumerate(change.relation.columns) if each.name == column), None)
        if place is None:
            return Value(row, column, "", f"{change.relation.table} has no such column in the journal")
        text = cells[place]
        if isinstance(text, Missing):
            return Value(row, column, "", text.why)
        return Value(row, column, self._personal.cell(change.relation.table, change.relation.columns[place], text))

    def key(self, change: Change) -> list[Value]:
        """Returns the columns that identify the row, as far as the journal tells: else the column `id`, if there is one."""
        row: Literal["new", "old"] = "new" if change.new is not None else "old"
        return [self.value(change, row, name) for name in _key(change.relation)] if change.relation is not None else []


def _key(relation: Relation) -> tuple[str, ...]:
    return row_key(relation, {}).columns or tuple(column.name for column in relation.columns if column.name == "id")
