"""The types that all packages share. No I/O.

LSNs are ints, times are microseconds since the Unix epoch in UTC, sizes are bytes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import msgspec

from cdc_tracker.times import iso

Lsn: TypeAlias = int
"""A WAL address: an int inside, `16/B374D848` outside (PostgreSQL's pg_lsn)."""


def format_lsn(lsn: Lsn) -> str:
    """0x16B374D848 → `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> Lsn:
    """`16/B374D848` → int. Raises ValueError if the text is not a pg_lsn."""
    high, slash, low = text.strip().partition("/")
    try:
        if slash and len(high) <= 8 and len(low) <= 8:
            return (int(high, 16) << 32) | int(low, 16)
    except ValueError:
        pass
    raise ValueError(f"not an LSN: {text!r} (expected something like 16/B374D848)")


class Position(NamedTuple):
    """A change's place in the total order of changes: by commit, then by order within the transaction.

    `ordinal` counts a transaction's row changes and cdc-tracker's logical messages from 0, before any filter; a truncate
    counts once per table. `Position(L, -1)` precedes every change of a transaction that commits at or after L, and so is the
    end of all older ones. `commit_lsn` can always be confirmed to the server without losing a change past this position: the
    server sends again every transaction that commits at or after it.
    """

    commit_lsn: Lsn
    ordinal: int

    @property
    def before(self) -> Position:
        """The highest position that precedes the change here: reading after it begins with this change."""
        return Position(self.commit_lsn, max(self.ordinal - 1, -1))

    def __str__(self) -> str:
        return f"{format_lsn(self.commit_lsn)}+{self.ordinal}" if self.ordinal >= 0 else format_lsn(self.commit_lsn)


START = Position(0, -1)
"""Precedes every change."""


class Missing(enum.Enum):
    """Why a column's text is not available. (NULL is None.) `reason`: the rejection's code; `why`: the sentence for people."""

    UNCHANGED = (
        "unchanged_toast",
        "it is large, the update did not touch it, and so the server did not log it; REPLICA IDENTITY FULL logs it",
    )
    UNLOGGED = "old_not_logged", "the table's REPLICA IDENTITY does not log it; REPLICA IDENTITY FULL logs it"
    TOO_LARGE = "value_too_large", "the row is above source.max_row, and this is among its largest values"
    UNREADABLE = "invalid_encoding", "it holds bytes that are no UTF-8, and the database does not say what they are"
    SPECIAL = "special_value", "it is NaN or an infinity, and wal2json does not say which; pgoutput does"

    def __init__(self, reason: str, why: str) -> None:
        self.reason = reason
        self.why = why


UNCHANGED = Missing.UNCHANGED
UNLOGGED = Missing.UNLOGGED

Text: TypeAlias = str | Missing | None
"""A column's value as PostgreSQL's text output, None for NULL, or why it is missing. Both plugins give the same text."""

Row: TypeAlias = tuple[Text, ...]
"""The columns that were asked for, in that order."""


def table_name(schema: str, name: str) -> str:
    """The name that mappings use: `shop.orders`, unquoted. A schema that contains a dot is quoted: `"my.shop".orders`."""
    if "." in schema or schema.startswith('"'):
        schema = '"' + schema.replace('"', '""') + '"'
    if name.startswith('"'):
        name = '"' + name.replace('"', '""') + '"'
    return f"{schema}.{name}"


_NAME = re.compile(r'("(?:[^"]|"")+"|[^."][^.]*)\.("(?:[^"]|"")+"|[^"].*)', re.DOTALL)


def split_name(table: str) -> tuple[str, str]:
    """Schema and name of a table name as `table_name` returns it, or quoted as in SQL. Without a dot the schema is `public`.

    Raises ValueError if a part is empty or a quote is not closed.
    """
    found = _NAME.fullmatch(table if "." in table else f"public.{table}")
    if found is None:
        raise ValueError(f"not a table's name: {table!r} (expected something like shop.orders)")
    schema, name = (part[1:-1].replace('""', '"') if part.startswith('"') else part for part in found.groups())
    return schema, name


class Column(NamedTuple):
    """A column of a Relation."""

    name: str
    type_oid: int
    key: bool  # part of the replica identity


@dataclass(frozen=True)
class Relation:
    """A table's columns when the change was made. A partition has the name of its root table.

    `identity` is PostgreSQL's relreplident: `d`efault, `n`othing, `f`ull, `i`ndex. `incomplete`: cells of its rows can be
    Missing for reasons other than UNCHANGED and UNLOGGED; decoders give such a row a Relation of its own.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    identity: str = "d"
    incomplete: bool = False

    @property
    def table(self) -> str:
        """The name that mappings use; see `table_name`."""
        return table_name(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Transaction:
    """`committed_at`: microseconds since the Unix epoch. `commit_lsn`: the start of the commit record."""

    xid: int
    commit_lsn: Lsn
    committed_at: int
    timestamp: str = field(init=False, compare=False)  # committed_at as ISO 8601 in UTC, computed once per transaction

    def __post_init__(self) -> None:
        object.__setattr__(self, "timestamp", iso(self.committed_at))


class Op(enum.StrEnum):
    """The kind of a change, by Debezium's letters."""

    INSERT = "c"
    UPDATE = "u"
    DELETE = "d"
    TRUNCATE = "t"
    MESSAGE = "m"
    READ = "r"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One row change, truncate, snapshot read or logical message.

    `new` and `old` have the columns that were asked for (see Wanted in sources.postgres.decoding), not all columns of the
    relation. For an update under the default replica identity that does not change the key, `old` has the key's text, and
    UNLOGGED elsewhere.
    `lsn` is the change's own WAL address, `index` its number among consecutive changes of the transaction that share that
    address, such as the rows of one COPY. `(lsn, index)` identifies the change whatever is published and whatever the plugin.
    A logical message has no `relation`; it has `prefix` and `content`, and `content` can be Missing as a cell can.
    """

    op: str  # an Op's value: plain str is faster than the enum
    relation: Relation | None
    new: Row | None
    old: Row | None
    position: Position
    lsn: Lsn
    index: int
    transaction: Transaction
    prefix: str = ""
    content: Text = ""


class Codec(NamedTuple):
    """Converts a column's text to a Python value and to JSON. sources.postgres.values makes it, the mapping compiler uses it.

    `kind` is one of: integer, decimal, float, boolean, text, uuid, json, timestamptz, timestamp, date, time, bytes, array, other.
    `load(text)` returns the value that expressions see: int, Decimal, float, bool, str, UUID, dict/list/…, datetime (aware, UTC),
    naive datetime, date, str (time), bytes, list, str. Values that Python cannot represent (infinity, BC, NaN, year > 9999) are
    Special. `to_json(text)` returns JSON text, equal to `canonical(load(text))`.
    Neither raises for text that PostgreSQL printed.
    """

    kind: str
    load: Callable[[str], Any]
    to_json: Callable[[str], str]


class Special(str):
    """The text of a value that Python or JSON cannot represent: infinity, NaN, a BC date, a year past 9999."""

    __slots__ = ()


def _encode_other(value: object) -> object:
    if isinstance(value, Special):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


_ENCODER = msgspec.json.Encoder(decimal_format="number", enc_hook=_encode_other)


def canonical(value: object) -> str:
    """A value's JSON text, always the same bytes: Decimal as an exact number, datetime as ISO 8601 (UTC as `Z`), bytes as base64.

    Raises TypeError for a type without a JSON form.
    """
    return _ENCODER.encode(value).decode()


RAW = "raw"
"""The type of an event that is a captured change, unmapped. The ledger counts it under `raw:shop.orders`."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One track, identify, group, alias, page or screen call. `body` is the complete JSON in the Segment spec's shape.

    `mapping` is the ledger's key: the mapping's key, or `outbox`. A destination that requires raw changes gets each change as
    an event of the type RAW, whose body is Debezium's envelope.
    `row_key` is set if the destination requires it: the row's key as canonical JSON, such as `{"id":7}`, empty if unknown.
    `old_key` of a raw update is the key before the update, if the update changed it.
    """

    message_id: str
    type: str
    body: bytes
    mapping: str
    position: Position
    committed_at: int  # microseconds since the Unix epoch
    row_key: bytes = b""
    old_key: bytes = b""

    def decoded(self) -> dict[str, Any]:
        """The body as Python values. Numbers with a fraction are Decimal."""
        decoded: dict[str, Any] = _DECODER.decode(self.body)
        return decoded


_DECODER = msgspec.json.Decoder(float_hook=Decimal)


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """An event or change that did not pass, and why. It becomes a dead letter.

    `reason` is a stable code such as `type_mismatch`; `field` the path within the event (`properties.revenue`);
    `value_type` the type of the value; `detail` a sentence for people, without the value if the property is `pii`.
    """

    reason: str
    mapping: str
    position: Position
    committed_at: int
    field: str = ""
    value_type: str = ""
    detail: str = ""
    event_id: str = ""


class Suppression(msgspec.Struct, frozen=True, gc=False):
    """An event that is left out on purpose, and why.

    `reason` is a stable code: `not_selected` (by the destination's `events`), `dry_run`, `already_sent` (by the sent-ledger),
    `overtaken` (a backfilled row of which the live stream has sent a later state).
    """

    reason: str
    event: Event

    @property
    def mapping(self) -> str:
        """The event's."""
        return self.event.mapping

    @property
    def position(self) -> Position:
        """The event's."""
        return self.event.position


Result: TypeAlias = Event | Rejection | Suppression
"""What one mapping makes of one change for one destination."""


class Outcome(enum.StrEnum):
    """What a destination did with one event."""

    DELIVERED = "delivered"  # the destination has it, durably
    ASSUMED = "assumed"  # it answered 2xx, and answers 2xx to invalid events, too
    RETRY = "retry"  # not accepted; send the same bytes again
    REJECTED = "rejected"  # refused for good
    SUPPRESSED = "suppressed"  # left out on purpose; not sent


class Receipt(NamedTuple):
    """A destination's answer for one event."""

    outcome: Outcome
    reason: str = ""  # a stable code, or the vendor's, for retry and rejected
    field: str = ""
    detail: str = ""  # a sentence for people, such as the vendor's message
    retry_after: float | None = None  # of RETRY: seconds that the destination asks to wait


DELIVERED = Receipt(Outcome.DELIVERED)
ASSUMED = Receipt(Outcome.ASSUMED)
SUPPRESSED = Receipt(Outcome.SUPPRESSED)
REPEATED = Receipt(Outcome.SUPPRESSED, "repeated")
"""The destination already has an event with this id, of another change, and did not store it again."""


@dataclass(frozen=True, slots=True, init=False)
class Batch:
    """Events for one call of a destination, in order of position.

    `upto`: when every event of the batch has a final receipt, every change up to and including this position is dealt with.
    A destination that stores its own checkpoint stores `upto` in the same atomic step as the events.
    `out_of_band`: the name of a batch that is not part of the stream and does not move the position, such as a retried dead
    letter or a part of a job; empty for the stream. A destination that stores its own checkpoint stores this name as well, and
    does not write a batch whose name is the one stored last.
    `history`: the events were sent before, or are old. A vendor may have its own endpoint or flag for such events.
    """

    events: Sequence[Event]
    upto: Position
    out_of_band: str
    history: bool

    def __init__(
        self, events: Sequence[Event], upto: Position, out_of_band: str = "", history: bool = False, *, aside: str = ""
    ) -> None:
        """`aside`: the earlier name of `out_of_band`, which plugins may use."""
        for name, value in (("events", events), ("upto", upto), ("out_of_band", aside or out_of_band), ("history", history)):
            object.__setattr__(self, name, value)

    @property
    def aside(self) -> str:
        """The earlier name of `out_of_band`, which plugins may use."""
        return self.out_of_band


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive replication frames as the server sent them. A segment is decoded without any other.

    `frames`: each frame is `>IQ` (payload length in bytes, the frame's start LSN), then the payload.
    `relations`: payloads of the same plugin that describe the relations which the frames need and do not contain.
    `open`: the transaction that began in an earlier segment and continues here, with the ordinal of this segment's first change
    and the (lsn, index) of the change before it.
    `first`, `last`: the positions of the first change and of the end; `last` is `(end LSN of the commit, -1)` if the last
    transaction is complete. `first_time`, `last_time`: the earliest and the latest commit, not always those of the first and
    the last transaction; microseconds since the Unix epoch, 0 if the segment has no transaction.
    """

    plugin: str
    frames: bytes
    count: int  # frames
    changes: int
    first: Position
    last: Position
    first_time: int
    last_time: int
    relations: tuple[bytes, ...] = ()
    open: OpenTransaction | None = None


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that continues from an earlier segment; see Segment."""

    transaction: Transaction
    ordinal: int
    lsn: Lsn
    index: int
