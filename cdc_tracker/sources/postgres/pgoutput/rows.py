"""Functions from a row's cells to those of the columns wanted: generated for complete rows, plain for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from cdc_tracker.generated import Names, define
from cdc_tracker.model import UNCHANGED, UNLOGGED, Relation, Row, Text
from cdc_tracker.sources.postgres.decoding import IncompleteRow
from cdc_tracker.sources.postgres.pgoutput.messages import CELL, LEFT_OUT, NULL, TEXT, cells_of

Functions: TypeAlias = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
"""`_RowReader`'s: inserted, new, old."""


def unchanged(kind: int) -> Text:
    """UNCHANGED; raises IncompleteRow for a cell that was left out or is unreadable."""
    if kind == LEFT_OUT:
        raise IncompleteRow
    return UNCHANGED


_CONSTANTS = {"cell": CELL.unpack_from, "unchanged": unchanged, "IncompleteRow": IncompleteRow, "UNLOGGED": UNLOGGED}
_VARIABLES = ("split", "frames", "at", "end", "kind", "size", "start", "row", "text")


def compiled(relation: Relation, new: list[int | None], old: list[int | None]) -> Functions:
    """Functions for complete rows. `new`, `old`: the places of the columns wanted, None for one that the relation lacks.

    They raise UnicodeDecodeError or IncompleteRow for a row that is not complete.
    """
    variables = _variables(relation)
    return (
        _compile_new(relation, variables, new, "raise IncompleteRow", "inserted"),
        _compile_new(relation, variables, new, "return None", "new"),
        _compile_old(relation, variables, old),
    )


def _variables(relation: Relation) -> list[str]:
    """For each column a variable that reads as its name."""
    names = Names((*_CONSTANTS, *_VARIABLES))
    return [names.unique(column.name) for column in relation.columns]


def readers(relation: Relation, new: list[int | None], old: list[int | None]) -> Functions:
    """As `compiled`, for rows that are not complete: they return Missing cells and do not raise."""

    def read_new(frames: bytes, at: int, end: int) -> Row | None:
        cells, _ = cells_of(relation, frames, at)
        row = tuple(None if place is None else cells[place] for place in new)
        return None if UNCHANGED in row else row

    def inserted(frames: bytes, at: int, end: int) -> Row:
        row = read_new(frames, at, end)
        if row is None:
            raise ValueError("an insert with a cell that is neither text nor NULL")
        return row

    def read_old(frames: bytes, at: int) -> tuple[Row | None, int]:
        cells, end = cells_of(relation, frames, at)
        return tuple(UNLOGGED if place is None else cells[place] for place in old), end

    return inserted, read_new, read_old


def _compile_new(
    relation: Relation, variables: Sequence[str], wanted: list[int | None], absent: str, title: str
) -> Callable[..., Any]:
    """A function (frames, first cell, frame's end) → the wanted cells; `absent` is the statement for a cell that is not there.

    It stops after the last wanted cell. A row of less than 256 bytes, all of them ASCII, is decoded as one text: the length of a
    cell is then its last byte alone, and the cell a slice of that text.
    """
    count = max((place for place in wanted if place is not None), default=-1) + 1
    result = f"return ({_tuple(variables, wanted, 'None')})"
    lines = [
        "row = frames[at:end] if end - at < 256 else b''",
        "if row and row.isascii():",
        "    text = row.decode(); at = 0",
        *(f"    {line}" for line in _short_cell_lines(variables[:count], wanted, absent)),
        f"    {result}",
        *_cell_lines(variables[:count], wanted, absent),
        result,
    ]
    return _define(f"pgoutput {relation.table} {title}", "frames, at, end", lines)


def _compile_old(
    relation: Relation, variables: Sequence[str], wanted: list[int | None]
) -> Callable[[bytes, int], tuple[Row | None, int]]:
    """A function (frames, first cell) → (the wanted cells, the tuple's end)."""
    lines = [*_cell_lines(variables, wanted, None), f"return ({_tuple(variables, wanted, 'UNLOGGED')}), at"]
    return _define(f"pgoutput {relation.table} old", "frames, at", lines)


def _tuple(variables: Sequence[str], wanted: list[int | None], absent: str) -> str:
    return "".join(f"{absent}, " if place is None else f"{variables[place]}, " for place in wanted)


def _cell_lines(variables: Sequence[str], wanted: list[int | None], absent: str | None) -> list[str]:
    lines = []
    for place, name in enumerate(variables):
        lines.append("kind, size = cell(frames, at)")
        if place in wanted:
            lines += [
                f"if kind == {TEXT}: start = at + 5; at = start + size; {name} = frames[start:at].decode()",
                f"elif kind == {NULL}: {name} = None; at += 1",
                f"else: {absent or f'{name} = unchanged(kind); at += 1'}",
            ]
        else:
            lines.append(f"at += 5 + size if kind == {TEXT} else 1  # {name}")
    return lines


def _short_cell_lines(variables: Sequence[str], wanted: list[int | None], absent: str) -> list[str]:
    lines = []
    for place, name in enumerate(variables):
        if place in wanted:
            lines += [
                "kind = row[at]",
                f"if kind == {TEXT}: start = at + 5; at = start + row[at + 4]; {name} = text[start:at]",
                f"elif kind == {NULL}: {name} = None; at += 1",
                f"else: {absent}",
            ]
        else:
            lines.append(f"at += 5 + row[at + 4] if row[at] == {TEXT} else 1  # {name}")
    return lines


def _define(title: str, parameters: str, lines: list[str]) -> Callable[..., Any]:
    source = "\n    ".join([f"def split({parameters}):", *lines]) + "\n"
    return define("split", source, dict(_CONSTANTS), title)
