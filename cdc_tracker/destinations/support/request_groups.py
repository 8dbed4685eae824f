"""What Mixpanel and Amplitude share: requests of several kinds in the right order, pages as events, a group in the context."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence

import msgspec

from cdc_tracker.destinations.support.json_splice import NOTHING, Call, decoded, members, quoted
from cdc_tracker.model import Outcome, Receipt

VIEWED = {"page": "Page Viewed", "screen": "Screen Viewed"}  # the names of the events that these calls become


class _Context(msgspec.Struct, rename="camel", gc=False):
    group_id: str | None = None
    active: msgspec.Raw = NOTHING


class PersonCall(Call, rename="camel", gc=False):
    """A call with the group that it happened in, `context.groupId`, and whether the person was there, `context.active`."""

    context: _Context | None = None

    @property
    def group(self) -> str:
        return (self.context.group_id if self.context else None) or ""

    @property
    def active(self) -> bool:
        return self.context is not None and bytes(self.context.active) == b"true"


_CALL = msgspec.json.Decoder(PersonCall)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_call(body: bytes) -> PersonCall:
    return decoded(_CALL, body)


def keys(inner: bytes) -> list[str]:
    """The keys of an object that is given without its braces."""
    found = decoded(_OBJECT, b"{%b}" % inner)
    return list(found)


def viewed(call: PersonCall) -> bytes:
    """A page's or screen's properties without their braces, with its name as `name`, unless they have one."""
    inner = members(call.properties)
    if not call.name or "name" in keys(inner):
        return inner
    return b'"name":%b%b%b' % (quoted(call.name), b"," if inner else b"", inner)


class Item(msgspec.Struct, gc=False):
    """A part of a request: of which event it is, what kind of request it goes with, and whom it is about.

    The ids stand alone, because a list for each event would keep the garbage collector busy.
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
        ids: list[Hashable] = [name for name in (self.user, self.device, self.previous) if name]
        return [*ids, ("group", self.group)] if self.group else ids


def in_waves(items: Sequence[Item]) -> Iterable[tuple[str, Sequence[Item]]]:
    """The items in requests of one kind each, as few as can be while all that is about one person or group keeps its order."""
    if len({item.kind for item in items}) == 1:
        return [(items[0].kind, items)]
    waves: list[tuple[str, list[Item]]] = []
    of_kind: dict[str, list[int]] = {}
    reached: dict[Hashable, int] = {}
    for item in items:
        least = max((reached.get(key, 0) for key in item.about), default=0)
        same = of_kind.setdefault(item.kind, [])
        place = bisect_left(same, least)
        if place == len(same):
            same.append(len(waves))
            waves.append((item.kind, []))
        waves[same[place]][1].append(item)
        for key in item.about:
            reached[key] = same[place]
    return waves


_TELLING = (Outcome.DELIVERED, Outcome.ASSUMED, Outcome.REJECTED, Outcome.RETRY)


def worse(one: Receipt | None, other: Receipt) -> Receipt:
    """Of two parts of one event, the receipt that counts: to go again, refused, assumed, delivered."""
    return other if one is None or _TELLING.index(other.outcome) > _TELLING.index(one.outcome) else one
