"""Exceptions and answers outside of a destination's contract: a bug in it, or a value that a library refuses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from cdc_tracker.destinations.base import HoldsCheckpoint
from cdc_tracker.errors import BatchRejected, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import ASSUMED, DELIVERED, Outcome, Position, Receipt

_FRAMES = 15  # of a traceback: a recursion has a thousand
_LINES = 100


class Fault(Exception):
    """An unexpected exception. `place`: its class and where it was raised. `trace`: the frames of it and of its causes.

    Neither contains the exception's text, which may quote an event: `'ascii' codec can't encode 'Ann Meier'`.
    """

    def __init__(self, error: BaseException) -> None:
        frames = _frames(error)
        self.place = f"{type(error).__name__} in {frames[-1]}" if frames else type(error).__name__
        self.trace = "\n".join(_traceback(error))
        super().__init__(self.place)


def _traceback(error: BaseException | None) -> list[str]:
    lines: list[str] = []
    while error is not None and len(lines) < _LINES:
        lines += [f"{type(error).__module__}.{type(error).__qualname__}", *(f"  {frame}" for frame in _frames(error))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines


def _frames(error: BaseException) -> list[str]:
    """The innermost frames, without source text: this runs often while a batch is divided."""
    last = deque(walk_tb(error.__traceback__), maxlen=_FRAMES)
    return [f"{Path(frame.f_code.co_filename).name}, line {line} ({frame.f_code.co_name})" for frame, line in last]


class WrongReceipts(TypeError):
    """A destination's answer is not one receipt per event."""


_KNOWN = (DestinationBlocked, DestinationUnavailable, TooLarge, BatchRejected)
_USUAL = (DELIVERED, ASSUMED)


def checked(answer: object, count: int) -> list[Receipt]:
    """The receipts of `count` events. Raises WrongReceipts if the answer has another shape."""
    if not isinstance(answer, list | tuple):
        raise WrongReceipts(f"a {type(answer).__name__} instead of a list of receipts")
    if len(answer) != count:
        raise WrongReceipts(f"{len(answer)} receipts for {count} events")
    for known in _USUAL:
        if answer and answer[0] == known and answer.count(known) == count:
            return [known] * count  # fast path
    return [_receipt(each) for each in answer]


def held_position(destination: HoldsCheckpoint) -> Position | None:
    """The destination's stored position. Raises TypeError if its answer is no position."""
    match destination.position():
        case None:
            return None
        case (int(lsn), int(ordinal)):
            return Position(lsn, ordinal)
        case other:
            raise TypeError(f"a {type(other).__name__} instead of a position")


def _receipt(given: object) -> Receipt:
    if not isinstance(given, Receipt):
        raise WrongReceipts(f"a {type(given).__name__} instead of a receipt")
    try:
        outcome = Outcome(given.outcome)
    except ValueError:
        raise WrongReceipts("a receipt with an unknown outcome") from None
    return Receipt(outcome, _text(given.reason), _text(given.field), _text(given.detail), _seconds(given.retry_after))


@contextmanager
def sound() -> Iterator[None]:
    """Cleans the errors that a plugin raises: their texts can be stored, their `retry_after` is a number of seconds.

    Raises whatever converting a text raises.
    """
    try:
        yield
    except _KNOWN as error:
        kind = next(kind for kind in _KNOWN if isinstance(error, kind))
        clean = kind(_text(error), hint=_text(error.hint))
        if isinstance(clean, DestinationUnavailable) and isinstance(error, DestinationUnavailable):
            clean.retry_after = _seconds(error.retry_after)
        if (*clean.args, vars(clean)) == (str(error), vars(error)):
            raise
        raise clean from error


def _seconds(given: object) -> float | None:
    return given if isinstance(given, int | float) and given >= 0 else None  # nan is not


def _text(given: object) -> str:
    """The value as text without NUL and lone surrogates, which PostgreSQL and JSON cannot store."""
    return "" if given is None else str(given).replace("\0", "\\0").encode(errors="replace").decode()
