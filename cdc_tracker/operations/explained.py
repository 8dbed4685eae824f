"""What `explain` returns: for each mapping its counts by cause, and some changes of each with what became of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cdc_tracker.errors import Problem
from cdc_tracker.mapping import Mapping, Placed
from cdc_tracker.model import Event, Lsn, Position, Rejection
from cdc_tracker.operations.receipts import Fate
from cdc_tracker.operations.rows import Value


class Cause(NamedTuple):
    """Why a change became what it did: an `event`, with its name if the row chooses that; `rejected`, with reason and field; an
    `operation` that `on` does not name; or a `condition`: the number of the first part of `when` that is false, from 0."""

    kind: Literal["event", "rejected", "operation", "condition"]
    name: str = ""
    field: str = ""
    part: int = 0


class Failed(NamedTuple):
    """A part of `when` that did not hold. `error`: why it cannot be computed; empty: it is false."""

    part: int
    error: str = ""


class Verdict(NamedTuple):
    """What a mapping made of a change, without the change's values. `failed`: every part that does not hold, in order.

    `op`: insert, update, delete or truncate. `at`: when it was committed, in ISO 8601.
    """

    position: Position
    lsn: Lsn
    op: str
    at: str
    cause: Cause
    failed: tuple[Failed, ...] = ()
    result: Event | Rejection | None = None


@dataclass(frozen=True)
class Explained:
    """A verdict with its details. Personal values are masked.

    `key`: the columns that identify the row. `values`: those that the failed parts, or the rejected value, read. `detail`: of a
    rejection; empty if it may quote a personal value. `gone`: the journal was trimmed meanwhile, so that there are no details.
    """

    verdict: Verdict
    key: tuple[Value, ...] = ()
    values: tuple[Value, ...] = ()
    detail: str = ""
    fates: tuple[Fate, ...] = ()
    gone: bool = False


@dataclass
class MappingExplained:
    """One mapping. `counts` covers every change of its table in the range; `shown` are some of each cause, in order of position.

    `changed`: destinations that last sent events with another content of the mapping's file. `uncaptured`: operations of the
    table that the journal need not have, because no mapping is on them.
    """

    mapping: Mapping
    parts: tuple[Placed, ...]
    counts: Counter[Cause] = field(default_factory=Counter)
    shown: list[Explained] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    uncaptured: list[str] = field(default_factory=list)


@dataclass
class Explanation:
    """`after`, `upto`: the range; None: the journal is empty. `begins`: commit time of the journal's first change, microseconds.

    `clipped`: the journal begins later than the range that was asked for. `gaps`: positions up to which it may have been trimmed
    while it was read. `problems`: of the mappings, with the table as the journal has it.
    """

    mappings: list[MappingExplained]
    after: Position | None = None
    upto: Position | None = None
    begins: int = 0
    clipped: bool = False
    gaps: list[Position] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
