"""Functions from a row's cells to those wanted: generated, or for rows that are not complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from cdc_tracker.model import UNCHANGED, UNLOGGED, Relation, Row, Text
from cdc_tracker.sources.postgres.pgoutput.messages import CELL, LEFT_OUT, NULL, TEXT, Gap, cells_of

Functions: TypeAlias = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
"""`_Table`'s: inserted, new, old."""


def compiled(relation: Relation, new: list[int | None], old: list[int | None]) -> Functions:
    return _compile_new(new, "raise gap"), _compile_new(new, "return None"), _compile_old(len(relation.columns), old)


def readers(relation: Relation, new: list[int | None], old: list[int | None]) -> Functions:
    """As `compiled`, for rows that are not complete."""

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


def _compile_new(wanted: list[int | None], absent: str) -> Callable[..., Any]:
    """A function (frames, first cell, frame's end) → the wanted cells; `absent` is what it does where one is not there.

    It stops after the last wanted one. A row of less than 256 bytes, all of them ASCII, is decoded as one text: a cell's length
    is then its last byte alone, and a cell a slice of that text.
    """
    count = max((place for place in wanted if place is not None), default=-1) + 1
    returns = f"return ({_found(wanted, 'None')})"
    short = [f"    {line}" for line in [*_short_cell_lines(count, wanted, absent), f"  {returns}"]]
    lines = ["  t = b[p:e] if e - p < 256 else b''", "  if t and t.isascii():", "      s = t.decode(); p = 0", *short]
    return _define("b, p, e", [*lines, *_cell_lines(count, wanted, absent)], returns)


def _compile_old(count: int, wanted: list[int | None]) -> Callable[[bytes, int], tuple[Row | None, int]]:
    """A function (frames, first cell) → (the wanted cells, the tuple's end)."""
    return _define("b, p", _cell_lines(count, wanted, None), f"return ({_found(wanted, 'UNLOGGED')}), p")


def _found(wanted: list[int | None], absent: str) -> str:
    return "".join(f"{absent}, " if place is None else f"c{place}, " for place in wanted)


def _cell_lines(count: int, wanted: list[int | None], absent: str | None) -> list[str]:
    lines = []
    for place in range(count):
        if place in wanted:
            missing = [f"  else: {absent}"] if absent else [f"  else: c{place} = unchanged(k); p += 1"]
            lines += [
                "  k, n = cell(b, p)",
                f"  if k == {TEXT}: q = p + 5; p = q + n; c{place} = b[q:p].decode()",
                f"  elif k == {NULL}: c{place} = None; p += 1",
                *missing,
            ]
        else:
            lines += ["  k, n = cell(b, p)", f"  p += 5 + n if k == {TEXT} else 1"]
    return lines


def _short_cell_lines(count: int, wanted: list[int | None], absent: str) -> list[str]:
    lines = []
    for place in range(count):
        if place in wanted:
            lines += [
                "  k = t[p]",
                f"  if k == {TEXT}: q = p + 5; p = q + t[p + 4]; c{place} = s[q:p]",
                f"  elif k == {NULL}: c{place} = None; p += 1",
                f"  else: {absent}",
            ]
        else:
            lines.append(f"  p += 5 + t[p + 4] if t[p] == {TEXT} else 1")
    return lines


def unchanged(kind: int) -> Text:
    if kind == LEFT_OUT:
        raise Gap
    return UNCHANGED


def _define(parameters: str, lines: list[str], returns: str) -> Callable[..., Any]:
    source = "\n".join([f"def split({parameters}):", *lines, f"  {returns}"])
    scope: dict[str, Any] = {"cell": CELL.unpack_from, "unchanged": unchanged, "gap": Gap, "UNLOGGED": UNLOGGED}
    exec(source, scope)  # noqa: S102 - the source is made of column places alone, no name or value goes into it
    split: Callable[..., Any] = scope["split"]
    return split
