"""The nouns that every part shares. Nothing here does I/O."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import msgspec

Lsn: TypeAlias = int
"""A WAL address: an int inside, `16/B374D848` outside (PostgreSQL's pg_lsn)."""


def format_lsn(lsn: Lsn) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> Lsn:
    """`16/B374D848` → int. Raises ValueError where the text is not a pg_lsn."""
    high, slash, low = text.strip().partition("/")
    if not slash or not 0 < len(high) <= 8 or not 0 < len(low) <= 8:
        raise ValueError(f"not an LSN: {text!r} (expected something like 16/B374D848)")
    return (int(high, 16) << 32) | int(low, 16)


class Position(NamedTuple):
    """Where a change stands in the total order of changes.

    `ordinal` counts the row changes (and our own logical messages) of a transaction from 0, before any filtering;
    a truncate counts once per table. `Position(L, -1)` lies before every change whose transaction committed at or
    after L: it is the end of everything older. In every case `commit_lsn` is an LSN that may be confirmed to the server
    without losing anything past this position, because the server sends again what commits at or after it.
    """

    commit_lsn: Lsn
    ordinal: int

    def __str__(self) -> str:
        return f"{format_lsn(self.commit_lsn)}+{self.ordinal}" if self.ordinal >= 0 else format_lsn(self.commit_lsn)


START = Position(0, -1)
"""Before everything."""


class Missing(enum.Enum):
    """Why a column of a row has no text, where it is not NULL (that is None). `reason`: of a rejection; `why`: for people."""

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
"""A column's value as PostgreSQL's text output, NULL, or why it is missing. Both plugins give the same text."""

Row: TypeAlias = tuple[Text, ...]
"""The columns that were asked for, in the order in which they were asked for."""


def table_name(schema: str, name: str) -> str:
    """What a mapping's `table` names: `shop.orders`, unquoted. A schema with a dot in it is quoted: `"my.shop".orders`."""
    if "." in schema or schema.startswith('"'):
        schema = '"' + schema.replace('"', '""') + '"'
    if name.startswith('"'):
        name = '"' + name.replace('"', '""') + '"'
    return f"{schema}.{name}"


_NAME = re.compile(r'("(?:[^"]|"")+"|[^."][^.]*)\.("(?:[^"]|"")+"|[^"].*)', re.DOTALL)


def split_name(table: str) -> tuple[str, str]:
    """Schema and name of what `table_name` made, or of a name quoted as in SQL; without a dot it is in `public`.

    Raises ValueError where a part is empty or its quotes do not end.
    """
    found = _NAME.fullmatch(table if "." in table else f"public.{table}")
    if found is None:
        raise ValueError(f"not a table's name: {table!r} (expected something like shop.orders)")
    schema, name = (part[1:-1].replace('""', '"') if part.startswith('"') else part for part in found.groups())
    return schema, name


class Column(NamedTuple):
    name: str
    type_oid: int
    key: bool  # part of the replica identity


@dataclass(frozen=True)
class Relation:
    """A table as it was when the change was made; a partition is named by its root.

    `identity` is PostgreSQL's relreplident: `d`efault, `n`othing, `f`ull, `i`ndex. `incomplete`: any cell of its rows may be
    Missing for another reason than UNCHANGED and UNLOGGED; a decoder gives such a row a relation of its own.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    identity: str = "d"
    incomplete: bool = False

    @property
    def table(self) -> str:
        """What a mapping's `table` names."""
        return table_name(self.schema, self.name)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Transaction:
    """`committed_at` in microseconds since the Unix epoch, `commit_lsn` the commit record's start."""

    xid: int
    commit_lsn: Lsn
    committed_at: int
    timestamp: str = field(init=False, compare=False)  # committed_at as ISO 8601 in UTC, made once a transaction

    def __post_init__(self) -> None:
        moment = (EPOCH + timedelta(microseconds=self.committed_at)).replace(tzinfo=None)
        object.__setattr__(self, "timestamp", moment.isoformat() + "Z")


class Op(enum.StrEnum):
    """Debezium's letters."""

    INSERT = "c"
    UPDATE = "u"
    DELETE = "d"
    TRUNCATE = "t"
    MESSAGE = "m"
    READ = "r"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One row change, truncate or logical message.

    `new` and `old` hold the columns asked for (see source.Wanted), not all of the relation's. On an update under
    default identity whose key did not change, `old` has the key's text and UNLOGGED elsewhere.
    `lsn` is the change's own WAL address, `index` its place among consecutive changes of the transaction that share it
    (the rows of one COPY do): `(lsn, index)` names the change whatever is published and whatever the plugin.
    For a message, `relation` is None, `prefix` and `content` are set; `content` may be Missing as a cell may.
    """

    op: str  # an Op's value: a plain str keeps the hot path short
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
    """How the text of one column becomes a value and JSON. Made by source.values, used by the mapping compiler.

    `kind` is one of: integer, decimal, float, boolean, text, uuid, json, timestamptz, timestamp, date, time, bytes, array, other.
    `load(text)` gives the value that expressions see: int, Decimal, float, bool, str, UUID, dict/list/…, datetime (aware, UTC),
    naive datetime, date, str (time), bytes, list, str. What Python cannot hold (infinity, BC, NaN, year > 9999) becomes Special.
    `to_json(text)` gives JSON text, equal to `canonical(load(text))` and never slower.
    Neither raises for text that PostgreSQL printed.
    """

    kind: str
    load: Callable[[str], Any]
    to_json: Callable[[str], str]


class Special(str):
    """The text of a value that Python or JSON cannot hold: infinity, NaN, a BC date, a year past 9999."""

    __slots__ = ()


def _encode_other(value: object) -> object:
    if isinstance(value, Special):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


_ENCODER = msgspec.json.Encoder(decimal_format="number", enc_hook=_encode_other)


def canonical(value: object) -> str:
    """JSON text of a value, byte-stable: Decimal as an exact number, datetime as ISO 8601 (UTC as `Z`), bytes as base64.

    Raises TypeError for what has no JSON.
    """
    return _ENCODER.encode(value).decode()


RAW = "raw"
"""The type of an event that is a change as it was captured. It is counted under `raw:shop.orders`."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One track, identify, group, alias, page or screen call. `body` is its whole JSON in the Segment spec's shape.

    `mapping` is the key under which the ledger counts it: the mapping's key, or `outbox`. A destination that wants raw changes
    gets each as an event of the type RAW instead, whose body is Debezium's envelope.
    `row_key` is made where the destination wants it: the row's key as canonical JSON, such as `{"id":7}`; empty where it is not
    known. `old_key` of a raw update is what it was before, where that is something else.
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
        """The body as Python values; numbers with a fraction are Decimal."""
        decoded: dict[str, Any] = _DECODER.decode(self.body)
        return decoded


_DECODER = msgspec.json.Decoder(float_hook=Decimal)


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """An event or change that did not pass, and why.

    `reason` is a stable code such as `type_mismatch`; `field` the path within the event (`properties.revenue`);
    `value_type` the offending value's type; `detail` a sentence for a person, without the value where the property is `pii`.
    """

    reason: str
    mapping: str
    position: Position
    committed_at: int
    field: str = ""
    value_type: str = ""
    detail: str = ""
    event_id: str = ""


class Outcome(enum.StrEnum):
    DELIVERED = "delivered"  # the destination has it, durably
    ASSUMED = "assumed"  # it answered 2xx, as it does to everything
    RETRY = "retry"  # not taken; send the same bytes again
    REJECTED = "rejected"  # refused for good
    SUPPRESSED = "suppressed"  # left out, as the settings ask; not sent


class Receipt(NamedTuple):
    outcome: Outcome
    reason: str = ""  # a stable code, or the vendor's, for retry and rejected
    field: str = ""
    detail: str = ""  # a sentence for a person, such as the vendor's own words
    retry_after: float | None = None  # of RETRY: seconds that the destination asks us to wait


DELIVERED = Receipt(Outcome.DELIVERED)
ASSUMED = Receipt(Outcome.ASSUMED)
SUPPRESSED = Receipt(Outcome.SUPPRESSED)
REPEATED = Receipt(Outcome.SUPPRESSED, "repeated")
"""The destination has an event with this id already, of another change: it was not taken a second time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events for one call of a destination, in order of position.

    `upto`: once every event here is dealt with, so is every change up to and including this position. A destination that
    stores its own checkpoint stores `upto` with the events, in one atomic step.
    `aside` names a batch that leaves the position where it is, because it goes beside the stream: a dead letter sent again, a
    part of a job. A destination that stores its own checkpoint stores the name, too, and does not take it twice in a row.
    `history`: the events went before, or are of long ago; a vendor may have a way of its own for such.
    """

    events: Sequence[Event]
    upto: Position
    aside: str = ""
    history: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive replication frames as they came, self-contained.

    `frames` is a run of frames, each `>IQ` (payload length in bytes, the frame's start LSN), then the payload.
    `relations` are payloads of the same plugin that describe the relations the frames need and do not carry themselves.
    `open`: the transaction that began in an earlier segment and goes on in this one, with the ordinal of this segment's first
    change and the (lsn, index) of the change before it.
    `first`, `last`: positions of the first change and of the end; `last` is `(end lsn of the commit, -1)` where the last
    transaction is complete. `first_time`, `last_time`: the earliest and the latest commit, which are not always the first and the
    last one; microseconds since the Unix epoch, 0 where the segment has no transaction.
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
    transaction: Transaction
    ordinal: int
    lsn: Lsn
    index: int
