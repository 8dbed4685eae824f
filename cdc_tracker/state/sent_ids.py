"""The sent-ledger: ids of delivered events.

Ids are random, so one row per id in a B-tree would write one page per id. They are stored in blocks instead, in one tree of nodes
for every week in which they were sent. A node has the ids that begin with certain hex digits; a commit adds its ids to the root.
A node that reaches FULL ids moves them to its 16 children, by their next digit. So an id is written four or five times, each time
among many, and is found in one of the few nodes that can have it. A week that is too old is removed as one range of places.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, bindparam, delete, func, literal_column, select, update

from cdc_tracker.state.tables import sent as t
from cdc_tracker.state.tables import sent_weeks as w
from cdc_tracker.state.transactions import Aggregate
from cdc_tracker.times import now_micros

WEEK = 7 * 86_400_000_000  # in microseconds
FULL = 512  # ids of a node: fewer are found faster, more are written in larger blocks
SIZE = 16
REMOVED_AT_ONCE = 2_000  # blocks in one transaction of trimming: tens of milliseconds, for which others may wait

# A block's place: the week's number, the node (1, then its hex digits), the block's number within the node.
_ROOT, _DEEPEST = 1, 7
_NODE_BITS, _BLOCK_BITS = 4 * _DEEPEST + 1, 16

_here = (w.c.source == bindparam("of_source"), w.c.destination == bindparam("of_destination"))
_COUNT_IN = update(w).where(*_here, w.c.week == bindparam("of_week")).values(ids=w.c.ids + bindparam("more")).returning(w.c.id)
_WEEKS = select(w.c.id).where(*_here).order_by(w.c.week.desc())
_EXTENT = select(func.min(w.c.since), func.sum(w.c.ids)).where(*_here)
_between = t.c.place.between(bindparam("first"), bindparam("last"))
_of_node: ColumnElement[int] = literal_column(f"place >> {_BLOCK_BITS}", BigInteger)
_NODES = select(func.max(t.c.place), func.sum(func.length(t.c.ids))).where(_between).group_by(_of_node)
_NEXT = select(t.c.place, func.length(t.c.ids)).where(_between).order_by(t.c.place).limit(bindparam("limit"))
_LOWEST = select(func.max(t.c.place)).where(_between)
_DELETE = delete(t).where(_between)
_TAKE = _DELETE.returning(t.c.ids)
_INSERT = t.insert()
_OF_NODES = {
    "sqlite": "SELECT s.ids FROM json_each(?) n CROSS JOIN cdc_tracker_sent s ON s.place BETWEEN n.value AND n.value + 65535",
    "postgresql": "SELECT string_agg(s.ids, '') FROM unnest(%s::bigint[]) n "
    "JOIN cdc_tracker_sent s ON s.place BETWEEN n AND n + 65535 GROUP BY n",
}
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def sent_id(message_id: str) -> bytes:
    """An event's id as the ledger keeps it: the 16 bytes of a UUID; of any other text, a hash of 16 bytes.

    16 bytes are enough: ids are UUIDs of 122 random bits or hashes of 128. That an event is taken for one of ten billion
    stored ones, and so held back by mistake, has a chance of 2e-27; disks err far more often.
    """
    if _UUID.fullmatch(message_id):
        return bytes.fromhex(message_id.replace("-", ""))
    return hashlib.blake2b(message_id.encode(), digest_size=16).digest()


class SentIds(Aggregate):
    """The sent-ledger of each destination that keeps one."""

    def find(self, source: str, destination: str, ids: Collection[bytes]) -> set[bytes]:
        """Returns those of `ids` (see sent_id) that were delivered, at any time."""
        found: set[bytes] = set()
        left = set(ids)
        with self._transactions.reading() as connection:
            for week in connection.execute(_WEEKS, {"of_source": source, "of_destination": destination}).scalars().all():
                if left:
                    found |= _in_week(connection, week, left)
                    left -= found
        return found

    def since(self, source: str, destination: str) -> int | None:
        """Microseconds: everything delivered since then is in the ledger. None: it is empty.

        It does not notice when it was turned off for a time: trim all of it then.
        """
        first: int | None = self._extent(source, destination)[0]
        return first

    def count(self, source: str, destination: str) -> int:
        """How many ids the ledger has."""
        return int(self._extent(source, destination)[1] or 0)

    def _extent(self, source: str, destination: str) -> Row[Any, Any]:
        with self._transactions.reading() as connection:
            return connection.execute(_EXTENT, {"of_source": source, "of_destination": destination}).one()

    def trim(self, source: str, destination: str, before_us: int) -> int:
        """Removes the weeks that ended by then (microseconds). Returns how many ids were removed.

        In short transactions, so that no delivery waits for long. After an interruption the next call continues.
        """
        removed = 0
        with self._transactions.fenced() as connection:
            weeks = begin_removal(connection, source, destination, before_us)
        for week in weeks:
            more = True
            while more:
                with self._transactions.fenced() as connection:
                    gone, more = remove_some(connection, week)
                removed += gone
        return removed


def add(connection: Connection, source: str, destination: str, ids: Sequence[bytes]) -> None:
    """Adds ids of events that are delivered by this commit. Raises ValueError unless each has SIZE bytes."""
    if not ids:
        return
    if any(len(one) != SIZE for one in ids):
        raise ValueError(f"an id of the sent-ledger has {SIZE} bytes: see sent_id")
    moment = now_micros()
    place = {"of_source": source, "of_destination": destination, "of_week": moment // WEEK, "more": len(ids)}
    week = connection.execute(_COUNT_IN, place).scalar()
    if week is None:
        values = {"source": source, "destination": destination, "week": moment // WEEK, "ids": len(ids), "since": moment}
        week = connection.execute(w.insert().returning(w.c.id), values).scalar_one()
    connection.execute(_INSERT, list(_blocks(connection, week, 0, {_ROOT: list(ids)})))


def _blocks(connection: Connection, week: int, depth: int, parts: dict[int, list[bytes]]) -> Iterator[dict[str, Any]]:
    """Ids for neighbouring nodes of this depth, as rows: a block of each, or of its children together with what it had."""
    there = _levels(connection, week, min(parts), max(parts))
    for node, ids in parts.items():
        number, held = there.get(node, (0, 0))
        if held + len(ids) < FULL or depth == _DEEPEST:
            yield {"place": _range(week, node, node)["first"] + number, "ids": b"".join(ids)}
        else:
            handed_down = {*ids, *_taken(connection, week, node)}
            yield from _blocks(connection, week, depth + 1, _children(node, depth, handed_down))


def _levels(connection: Connection, week: int, first: int, last: int) -> dict[int, tuple[int, int]]:
    """For each node: the number of its next block, and its count of ids. In a week under removal, first blocks may be gone."""
    rows = connection.execute(_NODES, _range(week, first, last))
    return {_node(place): ((place & (1 << _BLOCK_BITS) - 1) + 1, size // SIZE) for place, size in rows}


def _taken(connection: Connection, week: int, node: int) -> list[bytes]:
    """Removes the node's ids, and returns them."""
    return [one for (block,) in connection.execute(_TAKE, _range(week, node, node)) for one in _split(block)]


def _children(node: int, depth: int, ids: Collection[bytes]) -> dict[int, list[bytes]]:
    """Groups ids by the hex digit after the first `depth`."""
    byte, shift = depth // 2, 0 if depth % 2 else 4
    parts: dict[int, list[bytes]] = {}
    for one in ids:
        parts.setdefault(node << 4 | one[byte] >> shift & 15, []).append(one)
    return parts


def _in_week(connection: Connection, week: int, ids: set[bytes]) -> set[bytes]:
    """Returns those of `ids` that are stored. Searches from the root down, the depth last: commits move ids down meanwhile."""
    known: set[bytes] = set()
    for depth in range(_DEEPEST + 1):
        nodes = {1 << 4 * depth | int.from_bytes(one[:4], "big") >> 32 - 4 * depth for one in ids}
        for block in _of_nodes(connection, week, sorted(nodes)):
            known |= ids.intersection(_split(block))
        lowest = connection.execute(_LOWEST, _whole(week)).scalar()
        if lowest is None or _node(lowest).bit_length() // 4 <= depth:
            break
    return known


def _of_nodes(connection: Connection, week: int, nodes: list[int]) -> Iterator[bytes]:
    """Their blocks."""
    dialect = connection.dialect.name
    places = [_range(week, node, node)["first"] for node in nodes]
    given: Any = json.dumps(places) if dialect == "sqlite" else places
    for (block,) in connection.exec_driver_sql(_OF_NODES[dialect], (given,)):
        yield block


def _split(block: bytes) -> tuple[bytes, ...]:
    return struct.unpack(f"{SIZE}s" * (len(block) // SIZE), block)


def _range(week: int, first: int, last: int) -> dict[str, int]:
    """The places of the nodes from `first` to `last`."""
    start = week << _NODE_BITS
    return {"first": (start | first) << _BLOCK_BITS, "last": ((start | last) + 1 << _BLOCK_BITS) - 1}


def _node(place: int) -> int:
    return place >> _BLOCK_BITS & (1 << _NODE_BITS) - 1


def _whole(week: int) -> dict[str, int]:
    return _range(week, _ROOT, (1 << _NODE_BITS) - 1)


def begin_removal(connection: Connection, source: str, destination: str, before_us: int) -> list[int]:
    """The weeks that ended by then. From now on since() does not count them."""
    old = update(w).where(w.c.source == source, w.c.destination == destination, w.c.week < before_us // WEEK)
    return list(connection.execute(old.values(since=None).returning(w.c.id)).scalars())


def remove_some(connection: Connection, week: int) -> tuple[int, bool]:
    """Removes the next blocks of a week, and finally the week. Returns how many ids were removed, and whether more are left."""
    connection.execute(select(w.c.id).where(w.c.id == week).with_for_update()).all()  # no commit adds to it meanwhile
    whole = _whole(week)
    blocks = connection.execute(_NEXT, whole | {"limit": REMOVED_AT_ONCE}).all()
    ids = sum(size for _, size in blocks) // SIZE
    if len(blocks) < REMOVED_AT_ONCE:
        connection.execute(_DELETE, whole)
        connection.execute(delete(w).where(w.c.id == week))
        return ids, False
    connection.execute(_DELETE, whole | {"last": blocks[-1][0]})
    connection.execute(update(w).where(w.c.id == week).values(ids=w.c.ids - ids))
    return ids, True


def forget(connection: Connection, source: str) -> None:
    """Removes all ids of a source."""
    for week in connection.execute(delete(w).where(w.c.source == source).returning(w.c.id)).scalars().all():
        connection.execute(_DELETE, _whole(week))
