"""What destinations for vendors' HTTP APIs share: from a batch to the parts of requests, and from answers to receipts.

- translated: each event in the vendor's shape. A batch is sent as several requests by send_parts, if requests are independent or
  in order; or by send_groups, if there are several kinds and each person's items must keep their order.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import ClassVar, TypeVar

import msgspec

from cdc_tracker.destinations.base import Guarantee, Limits
from cdc_tracker.destinations.support.event_view import Call, EventRejected, decoded
from cdc_tracker.destinations.support.http import Http
from cdc_tracker.destinations.support.json_splice import MEMBERS, members, quoted
from cdc_tracker.errors import BatchRejected, DestinationUnavailable, TooLarge
from cdc_tracker.model import DELIVERED, SUPPRESSED, Event, Outcome, Receipt

T = TypeVar("T")
INVALID_IDS = frozenset({"", "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "{}", "0", "-1"})
INVALID_IDS |= {"00000000-0000-0000-0000-000000000000"}
"""In lower case: ids that Amplitude and Mixpanel take for mistakes of an application."""

VIEWED = {"page": "Page Viewed", "screen": "Screen Viewed"}
"""The events that page and screen calls become for vendors that know events only."""


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


def keys(inner: bytes) -> list[str]:
    """The keys of an object that is given without its braces."""
    found = decoded(MEMBERS, b"{%b}" % inner)
    return list(found)


def viewed_properties(call: Call) -> bytes:
    """A page's or screen's properties without their braces, with its name added as `name` unless they have one."""
    inner = members(call.properties)
    if not call.name or "name" in keys(inner):
        return inner
    return b'"name":%b%b%b' % (quoted(call.name), b"," if inner else b"", inner)


class Item(msgspec.Struct, gc=False):
    """One entry of a request: which event it comes from, the kind of request it needs, and the person and group it is about.

    The ids are single fields, because a list for each event would keep the garbage collector busy.
    """

    index: int
    kind: str
    body: bytes
    user: str | None = None
    device: str | None = None
    group: str | None = None
    previous: str | None = None
    old: bool = False

    @property
    def about(self) -> list[Hashable]:
        """The ids of people and groups whose items must keep their order."""
        ids: list[Hashable] = [name for name in (self.user, self.device, self.previous) if name]
        return [*ids, ("group", self.group)] if self.group else ids


def request_groups(items: Sequence[Item]) -> Iterable[tuple[str, Sequence[Item]]]:
    """The kind and the items of each request, in order: as few requests as keep the order of each person's and group's items."""
    if len({item.kind for item in items}) == 1:
        return [(items[0].kind, items)]
    groups: list[tuple[str, list[Item]]] = []
    of_kind: dict[str, list[int]] = {}  # kind → its groups, ascending
    reached: dict[Hashable, int] = {}  # person or group → the group with its last item
    for item in items:
        earliest = max((reached.get(key, 0) for key in item.about), default=0)
        same_kind = of_kind.setdefault(item.kind, [])
        place = bisect_left(same_kind, earliest)
        if place == len(same_kind):
            same_kind.append(len(groups))
            groups.append((item.kind, []))
        groups[same_kind[place]][1].append(item)
        for key in item.about:
            reached[key] = same_kind[place]
    return groups


_SEVERITY = (Outcome.DELIVERED, Outcome.ASSUMED, Outcome.REJECTED, Outcome.RETRY)


def worse(one: Receipt, other: Receipt) -> Receipt:
    """The receipt that counts for an event of two items: RETRY before REJECTED before ASSUMED before DELIVERED."""
    return other if _SEVERITY.index(other.outcome) > _SEVERITY.index(one.outcome) else one


_WAITS = Receipt(Outcome.RETRY, "an earlier event of the same user or group must be sent first")


def send_groups(
    receipts: list[Receipt | None], items: Sequence[Item], send: Callable[[str, Sequence[Item]], Sequence[Receipt]]
) -> list[Receipt]:
    """Sends the items in the requests of `request_groups`, and completes the receipts: those of rejected events are there.

    `send` returns a receipt for each item of a request. After a RETRY, later items of that person or group are RETRY, too.
    """
    held: set[Hashable] = set()
    for kind, group in request_groups(items) if items else ():
        for item, receipt in _answered(group, held, partial(send, kind)):
            before = receipts[item.index]
            receipts[item.index] = receipt if before is None else worse(before, receipt)
            if receipt.outcome is Outcome.RETRY:
                held.update(item.about)
    return [receipt or DELIVERED for receipt in receipts]


def _answered(
    group: Sequence[Item], held: set[Hashable], send: Callable[[Sequence[Item]], Sequence[Receipt]]
) -> Iterable[tuple[Item, Receipt]]:
    """Sends the items that nothing holds back; returns each item of the group with its receipt."""
    if not held:
        return zip(group, send(group), strict=True)
    waits = [not held.isdisjoint(item.about) for item in group]
    answers = iter(send([item for item, late in zip(group, waits, strict=True) if not late]))
    return [(item, _WAITS if late else next(answers)) for item, late in zip(group, waits, strict=True)]


Part = tuple[Sequence[int], Callable[[], Sequence[Receipt]]]
"""The indexes of events in a batch, and the call that sends them in one request."""


def send_parts(receipts: list[Receipt | None], parts: Iterable[Part]) -> list[Receipt]:
    """Sends the parts one after the other and returns `receipts` with the missing ones filled in.

    Raises what the first request raises, unless it refuses a single event. If a later one fails, the events sent before it keep
    their receipts, and it and all after it are RETRY.
    """
    again: Receipt | None = None  # of the events after a failure
    answered = False
    for indexes, send in parts:
        answers: Sequence[Receipt | None] = ()
        if again is None:
            try:
                answers = send()
            except (TooLarge, BatchRejected) as error:
                if len(indexes) == 1:
                    code = "too_large" if isinstance(error, TooLarge) else "refused"
                    answers = [Receipt(Outcome.REJECTED, code, detail=str(error))]
                elif answered:
                    again = Receipt(Outcome.RETRY, str(error))
                else:
                    raise
            except DestinationUnavailable as error:
                if not answered:
                    raise
                again = Receipt(Outcome.RETRY, str(error), retry_after=error.retry_after)
            answered = True
        for i, receipt in zip(indexes, answers or [again] * len(indexes), strict=True):
            receipts[i] = receipt
    return [receipt for receipt in receipts if receipt is not None]
