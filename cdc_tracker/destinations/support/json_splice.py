"""An event's body as a translating destination looks at it: ids, names and time decoded, the rest left as the bytes it is.

Values are spliced into the vendor's shape as they stand, so that numbers stay exact and the same event gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from cdc_tracker.errors import BatchRejected, DestinationUnavailable, TooLarge
from cdc_tracker.model import Event, Outcome, Receipt
from cdc_tracker.times import iso, to_micros

T = TypeVar("T")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
NOTHING = msgspec.Raw(b"")
quoted = msgspec.json.Encoder().encode
"""JSON of a text, as bytes."""


class Call(msgspec.Struct, rename="camel", gc=False):
    """A track, identify, group, alias, page or screen call. Destinations add the parts of `context` that they look at."""

    type: str = ""
    event: str = ""
    name: str = ""
    user_id: str | None = None
    anonymous_id: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    properties: msgspec.Raw = NOTHING
    traits: msgspec.Raw = NOTHING
    timestamp: str = ""


class Level(NamedTuple):
    """An object or list within an event: its path, how many objects are around it, how many members or elements it has."""

    path: str
    depth: int
    size: int
    is_object: bool


class Refused(Exception):
    """The destination would not take the event, or falsify it: it is not sent."""

    def __init__(self, reason: str, field: str = "", detail: str = "") -> None:
        super().__init__(detail)
        self.receipt = Receipt(Outcome.REJECTED, reason, field, detail)


def decoded(decoder: msgspec.json.Decoder[T], json: bytes | msgspec.Raw) -> T:
    """What an outbox wrote may be of any type where a destination expects a text: such an event is refused."""
    try:
        return decoder.decode(json)
    except msgspec.ValidationError as error:
        raise Refused("type_mismatch", str(error).rpartition("`$.")[2].rstrip("`"), str(error)) from None
    except RecursionError:
        raise Refused("too_deep", "", "the event is nested deeper than can be read") from None


def members(raw: msgspec.Raw) -> bytes:
    """What stands between the braces of a JSON object; nothing, where it is none."""
    text = bytes(raw)
    inner = text[1:-1] if text[:1] == b"{" else b""
    return b"" if inner.isspace() else inner


def levels(inner: bytes, path: str) -> Iterator[Level]:
    """Every object and list of an object that is given without its braces, from the outermost on.

    Its numbers stay text: Python would refuse some, such as an integer of 5,000 digits.
    """
    left = [(path, 0, b"{%b}" % inner)]
    while left:
        path, depth, text = left.pop()
        if text[:1] == b"{":
            found = decoded(_OBJECT, text)
            yield Level(path, depth, len(found), True)
            inside = [(f"{path}.{key}", depth + 1, bytes(value)) for key, value in found.items()]
        else:
            listed = decoded(_LIST, text)
            yield Level(path, depth, len(listed), False)
            inside = [(path, depth, bytes(value)) for value in listed]
        left += [each for each in inside if each[2][:1] in (b"{", b"[")]


def object_with(own: bytes, raw: msgspec.Raw) -> bytes:
    """The object with our members before its own: where both have a key, parsers take the later one, which is the event's."""
    theirs = members(raw)
    return b"{%b,%b}" % (own, theirs) if own and theirs else b"{%b}" % (own or theirs)


def moment(call: Call, event: Event) -> tuple[int, str]:
    """The event's time in microseconds since the Unix epoch, and as RFC 3339 in UTC. Without one, that of its commit."""
    text = call.timestamp
    if not text:
        return event.committed_at, iso(event.committed_at)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Refused("timestamp_invalid", "timestamp", "the timestamp is not a time in ISO 8601") from None
    micros = to_micros(time)
    if text[-1] == "Z" and text[10:11] == "T":
        return micros, text
    try:
        return micros, iso(micros)
    except OverflowError:
        raise Refused("timestamp_invalid", "timestamp", "the timestamp is in UTC before the year 1 or after 9999") from None


def check_length(text: str, limit: int, field: str) -> None:
    """Refuse an id longer than a limit in bytes of UTF-8."""
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise Refused("id_too_long", field, f"the destination takes ids of {limit} bytes at most")


Part = tuple[Sequence[int], Callable[[], Sequence[Receipt]]]
"""Events of a batch by index, and what sends them in one request."""


def in_parts(receipts: list[Receipt | None], parts: Iterable[Part]) -> list[Receipt]:
    """Send a batch in several requests, one after the other, and fill in the receipts that are missing.

    A failure of the first request is the batch's. After a later one what was taken keeps its receipts, and the rest goes again.
    """
    failure = ""
    wait: float | None = None
    taken = False
    for indexes, send in parts:
        answers: Sequence[Receipt] = ()
        if not failure:
            try:
                answers = send()
                taken = True
            except (TooLarge, BatchRejected) as error:
                if len(indexes) == 1:
                    code = "too_large" if isinstance(error, TooLarge) else "refused"
                    answers = [Receipt(Outcome.REJECTED, code, detail=str(error))]
                elif not taken:
                    raise
                else:
                    failure = str(error)
            except DestinationUnavailable as error:
                if not taken:
                    raise
                failure, wait = str(error), error.retry_after
        again = Receipt(Outcome.RETRY, failure, retry_after=wait)
        for i, receipt in zip(indexes, answers or [again] * len(indexes), strict=True):
            receipts[i] = receipt
    return [receipt for receipt in receipts if receipt is not None]
