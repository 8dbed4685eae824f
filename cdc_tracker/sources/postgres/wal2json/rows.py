"""Functions from a frame's cells to those of the columns wanted: generated for complete rows, plain for others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from cdc_tracker.generated import Names, define
from cdc_tracker.model import UNCHANGED, UNLOGGED, Missing, Relation, Row, Text
from cdc_tracker.sources.postgres.decoding import IncompleteRow
from cdc_tracker.sources.postgres.wal2json.frames import Cell, Description, Frame

BYTEA = 17


class RowReader(NamedTuple):
    """A relation, and a function that reads the columns wanted of its rows.

    It raises IncompleteRow for a row that is not complete; that of an incomplete relation does not.
    """

    relation: Relation
    wanted: tuple[tuple[str, ...], tuple[str, ...]] | None
    new: tuple[tuple[int | None, str], ...]  # (place in the relation, name) of each column wanted
    row: Callable[[list[Cell]], Row | None]  # the columns wanted of a complete row; None if the row has other columns
    described: Description
    absent: frozenset[str]  # columns wanted of old rows that the relation lacks

    def rows(self, frame: Frame, row: Row | None) -> tuple[Row | None, Row | None]:
        """(new, old) of a frame. `row`: the new row, if it was read already. Raises ValueError for an unknown action."""
        action = frame.action
        if action == "I":
            return self._new(frame.columns) if row is None else row, None
        if action == "U":
            return self._whole(frame) if row is None else row, self._old(frame.identity)
        if action == "D":
            return None, self._old(frame.identity)
        if action == "T":
            return None, None
        raise ValueError(f"unknown wal2json action {action!r}")

    def _new(self, cells: list[Cell]) -> Row:
        return tuple([None if place is None else self._text(cells[place]) for place, _ in self.new])

    def _whole(self, frame: Frame) -> Row:
        """A new row. A column left out is unchanged TOAST: it is filled from the old row if that has it."""
        if len(frame.columns) == len(self.relation.columns):
            return self._new(frame.columns)
        after = {cell.name: cell for cell in frame.columns}
        before = {cell.name: cell for cell in frame.identity}

        def cell(place: int | None, name: str) -> Text:
            if place is None:
                return None
            found = after.get(name) or before.get(name)
            return UNCHANGED if found is None else self._text(found)

        return tuple(cell(place, name) for place, name in self.new)

    def _old(self, cells: list[Cell]) -> Row:
        found = {cell.name: cell for cell in cells}
        wanted = self.wanted[1] if self.wanted else ()
        return tuple(self._text(found[name]) if name in found else UNLOGGED for name in wanted)

    def _text(self, cell: Cell) -> Text:
        """The cell's text, or why it has none. Raises IncompleteRow for that unless the relation is an incomplete one."""
        missing: Missing | None = None
        if cell.value is None and cell.name in self.described.never_null:
            missing = Missing.SPECIAL
        elif cell.value.__class__ is dict:
            missing = Missing[cell.value["missing"]]
        if missing is None:
            return _present(cell)
        if not self.relation.incomplete:
            raise IncompleteRow
        return missing


def compile_row(
    relation: Relation, new: tuple[tuple[int | None, str], ...], never_null: Collection[str]
) -> Callable[[list[Cell]], Row | None]:
    """A function from the cells of a row to those wanted; it returns None for a row with other columns, names or types."""
    places = [place for place, _ in new if place is not None]
    if len(places) < len(new):
        return lambda _cells: None
    lines = ["def row(cells):", f"    if len(cells) != {len(relation.columns)}: return None"]
    constants: dict[str, Any] = {"text": _present, "not_null": _not_null}
    names = Names(("row", "cells", "cell", "value", *constants))
    variables = {place: names.unique(relation.columns[place].name) for place in dict.fromkeys(places)}
    for place, variable in variables.items():
        column, label = relation.columns[place], names.unique(f"name_of_{variable}")
        constants[label] = column.name
        value = "text(cell)" if column.type_oid == BYTEA else "value if value.__class__ is str or value is None else text(cell)"
        if column.name in never_null:
            value = "value if value.__class__ is str else not_null(cell)"
        lines += [
            f"    cell = cells[{place}]; value = cell.value",
            f"    if cell.name != {label} or cell.typeoid != {column.type_oid}: return None",
            f"    {variable} = {value}",
        ]
    lines.append(f"    return ({''.join(f'{variables[place]}, ' for place in places)})")
    return define("row", "\n".join(lines), constants, f"wal2json {relation.table}")


def _present(cell: Cell) -> str | None:
    """A cell's value as PostgreSQL's text output."""
    value = cell.value
    if value.__class__ is str:
        return "\\x" + value if cell.typeoid == BYTEA else value
    if value is None:
        return None
    if value.__class__ is bool:
        return "t" if value else "f"
    if value.__class__ is dict:
        raise IncompleteRow
    return str(value)


def _not_null(cell: Cell) -> str:
    """The text of a cell of a NOT NULL column; raises IncompleteRow for null, which is NaN or an infinity."""
    if cell.value is None:
        raise IncompleteRow
    return str(_present(cell))
