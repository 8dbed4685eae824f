"""What destinations for vendors' HTTP APIs share: the translation of a batch, event by event, and probing and closing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from cdc_tracker.destinations.base import Guarantee, Limits
from cdc_tracker.destinations.support.event_view import EventRejected
from cdc_tracker.destinations.support.http import Http
from cdc_tracker.model import SUPPRESSED, Event, Receipt

T = TypeVar("T")
INVALID_IDS = frozenset({"", "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "{}", "0", "-1"})
INVALID_IDS |= {"00000000-0000-0000-0000-000000000000"}
"""In lower case: ids that Amplitude and Mixpanel take for mistakes of an application."""


class HttpDestination:
    """A subclass sets `limits` and `_http`, and implements `deliver`."""

    guarantee: ClassVar[Guarantee] = "once within the vendor's window"
    age_limit: ClassVar[float] = math.inf

    limits: Limits
    _http: Http

    def probe(self) -> None:
        """Reaches the host. It does not check the credentials: only an event would."""
        self._http.reach()

    def close(self) -> None:
        self._http.close()


def translated(events: Sequence[Event], translate: Callable[[int, Event], T]) -> tuple[list[Receipt | None], list[T]]:
    """What `translate` returns for each event and its index. The receipts are those of the events that it rejects, else None."""
    receipts: list[Receipt | None] = [None] * len(events)
    made: list[T] = []
    for index, event in enumerate(events):
        try:
            made.append(translate(index, event))
        except EventRejected as rejected:
            receipts[index] = rejected.receipt
    return receipts, made


def unsupported(vendor: str, kind: str, *, skip: bool) -> EventRejected:
    """The exception for a call that has no counterpart at the vendor. `skip`: its receipt is SUPPRESSED."""
    detail = f"{vendor} has no counterpart of {kind}: `unsupported: skip` leaves such calls out"
    error = EventRejected("not_supported", "type", detail)
    if skip:
        error.receipt = SUPPRESSED
    return error


def check_id(vendor: str, invalid: frozenset[str], identifier: str | None, field: str) -> str:
    """Returns the id. Raises EventRejected if it is empty, or one of those that the vendor takes for a mistake."""
    if not identifier or identifier.lower() in invalid:
        raise EventRejected("id_invalid", field, f"{vendor} does not accept {identifier!r} as an id")
    return identifier
