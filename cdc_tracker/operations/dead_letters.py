"""Dead letters: list, show, retry and discard what was parked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cdc_tracker.errors import InvalidRequest
from cdc_tracker.journal import Journal, decode
from cdc_tracker.pipeline import whole_changes
from cdc_tracker.pipeline.debezium_envelope import as_envelope
from cdc_tracker.state import DeadLetter, LetterState, Selection, State


class Page(NamedTuple):
    """`more`: there are more than these."""

    letters: list[DeadLetter]
    more: bool


def listed(
    store: State,
    source: str,
    *,
    destination: str | None = None,
    mapping: str | None = None,
    reason: str | None = None,
    state: LetterState | None = None,
    limit: int = 50,
) -> Page:
    """The oldest that fit, without their segments."""
    found = store.dead_letters.page(source, destination=destination, state=state, mapping=mapping, reason=reason, limit=limit + 1)
    return Page(found[:limit], len(found) > limit)


def one(state: State, source: str, number: int) -> DeadLetter:
    """The source's dead letter of that number, with its segment. Raises InvalidRequest if there is none."""
    letter = state.dead_letters.get(number)
    if letter is None or letter.source != source:
        raise InvalidRequest(f"there is no dead letter {number}; `cdc-tracker dead-letters list` shows them")
    return letter


def changes(letter: DeadLetter, database: str) -> list[str]:
    """Returns the letter's row changes, each as Debezium's envelope in JSON, with every value of its row."""
    segment = decode(letter.segment, f"the segment of dead letter {letter.id}")
    return [as_envelope(change, database) for change in whole_changes(segment) if change.position == letter.position]


def selection(
    numbers: Sequence[int] = (),
    destination: str | None = None,
    mapping: str | None = None,
    reason: str | None = None,
    *,
    every: bool = False,
) -> Selection:
    """Selects letters by number, by the filters, or `every` one. Raises InvalidRequest unless exactly one of these is given."""
    filtered = bool(destination or mapping or reason)
    if numbers and (filtered or every):
        raise InvalidRequest("name dead letters by ID, or choose them by --destination, --mapping and --reason, not both")
    if not (numbers or filtered or every):
        raise InvalidRequest("say which: IDs, --destination, --mapping, --reason, or --all")
    return Selection(list(numbers) or None, destination, mapping, reason)


def retry(state: State, journal: Journal, source: str, wanted: Selection) -> int:
    """Queues them, and returns how many. A running worker maps and delivers them at once, else the next one does."""
    queued = state.dead_letters.queue(source, wanted)
    if queued:
        journal.wake()
    return queued


def discard(state: State, source: str, wanted: Selection) -> int:
    """Gives them up for good, and returns how many. The ledger still counts them as rejected."""
    return state.dead_letters.discard(source, wanted)
