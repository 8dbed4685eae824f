"""An event's body as destinations read it: ids, names and time decoded once, everything else kept as the bytes that it is.

`msgspec.Raw` keeps `properties`, `traits` and `context` byte for byte, so numbers stay exact and the same event always gives the
same output. `read_event` keeps the context whole; `read_call` divides it in the same pass, for destinations that use parts of it.
A part is decoded only by those that use it, so an odd value there (`"ip": 7`) matters to no other.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TypeVar

import msgspec

from cdc_tracker.errors import BatchRejected
from cdc_tracker.model import Event, Outcome, Receipt

T = TypeVar("T")
ABSENT = msgspec.Raw(b"")


class EventRejected(BatchRejected):
    """The destination would refuse or falsify this event, so it is not sent. `receipt` is its final receipt."""

    def __init__(self, reason: str, field: str = "", detail: str = "") -> None:
        super().__init__(detail)
        self.receipt = Receipt(Outcome.REJECTED, reason, field, detail)


class ContextView(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """The parts of `context` that some destination uses, undecoded."""

    ip: msgspec.Raw = ABSENT
    user_agent: msgspec.Raw = ABSENT
    group_id: msgspec.Raw = ABSENT
    active: msgspec.Raw = ABSENT
    consent: msgspec.Raw = ABSENT

    @property
    def group(self) -> str:
        """The group in which the event happened; empty if there is none. Raises EventRejected if it is not text."""
        return "" if self.group_id is ABSENT else _optional_text(self.group_id, "context.groupId")

    @property
    def given_address(self) -> str:
        """The device's address as the event has it; empty if there is none. Raises EventRejected if it is not text."""
        return "" if self.ip is ABSENT else _optional_text(self.ip, "context.ip")

    @property
    def is_active(self) -> bool:
        """Whether the event says that its person was active at the time."""
        return bytes(self.active) == b"true"

    @property
    def address(self) -> str:
        """The device's IPv4 or IPv6 address; empty if it is unknown or no address. A hint to a vendor: never raises."""
        text = _hint(self.ip)
        try:
            return str(ip_address(text)) if text else ""
        except ValueError:
            return ""

    @property
    def agent(self) -> str:
        """The device's User-Agent; empty if it is unknown or no text. A hint to a vendor: never raises."""
        return _hint(self.user_agent)


NO_CONTEXT = ContextView()


class SourceView(msgspec.Struct, frozen=True, gc=False):
    """The table and the transaction that an event or a raw change comes from; a logical message has no table."""

    schema: str = ""
    table: str = ""
    xid: int = msgspec.field(default=0, name="txId")


class Call(msgspec.Struct, rename="camel", gc=False):
    """A track, identify, group, alias, page or screen call. A field that the call does not have is empty, ids are None."""

    type: str
    message_id: str
    event: str = ""  # the name of a track call
    name: str = ""  # the name of a page or screen call
    user_id: str | None = None
    anonymous_id: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    timestamp: str = ""  # ISO 8601
    properties: msgspec.Raw = ABSENT
    traits: msgspec.Raw = ABSENT

    @property
    def title(self) -> str:
        """The name of a track, page or screen call; empty for the others."""
        return self.event or self.name


class CallInContext(Call, rename="camel", gc=False):
    """A call with the parts of its context that destinations use; null is no context."""

    context: ContextView | None = None


class EventView(Call, rename="camel", gc=False):
    """A call with its whole context, undecoded."""

    context: msgspec.Raw = ABSENT

    def read_source(self) -> SourceView:
        """Raises EventRejected if the context or its source is not an object of texts."""
        found = None if self.context is ABSENT else decoded(_SOURCE, self.context, "context")
        return found.source if found else SourceView()


class _Sourced(msgspec.Struct, gc=False):
    source: SourceView = SourceView()


class ChangeView(msgspec.Struct, gc=False):
    """The parts of a raw change (Debezium's envelope) by which it is routed."""

    source: SourceView = SourceView()
    op: str = ""


_EVENT = msgspec.json.Decoder(EventView)
_CALL = msgspec.json.Decoder(CallInContext)
_CHANGE = msgspec.json.Decoder(ChangeView)
_SOURCE = msgspec.json.Decoder(_Sourced | None)
_TEXT = msgspec.json.Decoder(str)
_OPTIONAL_TEXT = msgspec.json.Decoder(str | None)


def read_event(event: Event) -> EventView:
    """Raises EventRejected if the body is not a call in the Segment spec's shape."""
    try:
        return _EVENT.decode(event.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _rejected(error) from None


def read_call(event: Event) -> CallInContext:
    """Raises EventRejected if the body is not a call in the Segment spec's shape, or its context is not an object."""
    try:
        return _CALL.decode(event.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _rejected(error) from None


def read_change(event: Event) -> ChangeView:
    """Reads an event of the type RAW."""
    return decoded(_CHANGE, event.body)


def decoded(decoder: msgspec.json.Decoder[T], json: bytes | msgspec.Raw, path: str = "") -> T:
    """The decoder's value of an event or of the part of it at `path`, such as `context.source`.

    Raises EventRejected: an outbox may hold any type where a destination needs a text.
    """
    try:
        return decoder.decode(json)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _rejected(error, path) from None


def _rejected(error: Exception, path: str = "") -> EventRejected:
    if isinstance(error, RecursionError):
        return EventRejected("too_deep", path, "the event is nested deeper than can be read")
    inner = str(error).partition("`$.")[2].rstrip("`")
    field = ".".join(part for part in (path, inner) if part)
    return EventRejected("type_mismatch", field, f"the event is not in the shape of a call: {error}")


def _optional_text(raw: msgspec.Raw, path: str) -> str:
    """Empty for null."""
    return decoded(_OPTIONAL_TEXT, raw, path) or ""


def _hint(raw: msgspec.Raw) -> str:
    return _TEXT.decode(raw) if bytes(raw)[:1] == b'"' else ""
