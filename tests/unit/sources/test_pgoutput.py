"""pgoutput's messages, byte by byte, and recorded ones damaged at random."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_tracker.model import (
    START,
    UNCHANGED,
    UNLOGGED,
    Change,
    Column,
    OpenTransaction,
    Position,
    Relation,
    Segment,
    Transaction,
)
from cdc_tracker.sources.postgres import pgoutput
from cdc_tracker.sources.postgres.decoding import Wanted
from tests.unit.sources.damage import damaged, every_column, survives
from tests.wal import recording

TRANSACTION = Transaction(731, 0x1000, pgoutput.POSTGRES_EPOCH + 1_000_000)
OPEN = OpenTransaction(TRANSACTION, 5, 0x900, 2)
TEXT, INT = 25, 23


def relation(*columns: tuple[str, int, bool], identity: str = "d", oid: int = 7) -> bytes:
    described = b"".join(
        struct.pack(">B", key) + name.encode() + b"\0" + struct.pack(">Ii", kind, -1) for name, kind, key in columns
    )
    return struct.pack(">cI", b"R", oid) + b"shop\0orders\0" + identity.encode() + struct.pack(">H", len(columns)) + described


def row(*cells: str | bytes | None) -> bytes:
    """A tuple's cells: text, NULL, or a mark as bytes."""
    parts = [
        cell
        if isinstance(cell, bytes)
        else b"n"
        if cell is None
        else b"t" + struct.pack(">I", len(cell.encode())) + cell.encode()
        for cell in cells
    ]
    return struct.pack(">H", len(cells)) + b"".join(parts)


def change(kind: str, body: bytes, oid: int = 7) -> bytes:
    return struct.pack(">cI", kind.encode(), oid) + body


def begin(transaction: Transaction = TRANSACTION) -> bytes:
    time = transaction.committed_at - pgoutput.POSTGRES_EPOCH
    return struct.pack(">cQQI", b"B", transaction.commit_lsn, time, transaction.xid)


def segment(relations: list[bytes], *frames: tuple[int, bytes], opened: OpenTransaction | None = OPEN) -> Segment:
    joined = b"".join(struct.pack(">IQ", len(payload), lsn) + payload for lsn, payload in frames)
    first = Position(opened.transaction.commit_lsn, opened.ordinal) if opened else Position(0, 0)
    return Segment("pgoutput", joined, len(frames), len(frames), first, first, 0, 0, tuple(relations), opened)


def decode(found: Segment, wanted: Wanted = every_column, after: Position = START) -> list[Change]:
    return list(pgoutput.Decoder(wanted).changes(found, after))


ORDERS = relation(("id", INT, True), ("note", TEXT, False))


def test_a_relation_message_is_read() -> None:
    assert pgoutput.parse_relation(relation(("id", INT, True), ("größe", TEXT, False), identity="i")) == Relation(
        "shop", "orders", (Column("id", INT, True), Column("größe", TEXT, False)), "i"
    )
    system = ORDERS.replace(b"shop\0", b"\0")
    assert pgoutput.parse_relation(system).schema == "pg_catalog"


def test_an_insert_goes_on_in_the_open_transaction() -> None:
    frames = [(0x900, change("I", b"N" + row("1", "größe 🛒"))), (0xA00, change("I", b"N" + row("2", None)))]
    first, second = decode(segment([ORDERS], *frames))
    assert (first.op, first.new, first.old) == ("c", ("1", "größe 🛒"), None)
    assert (first.position, first.lsn, first.index, first.transaction) == (Position(0x1000, 5), 0x900, 3, TRANSACTION)
    assert (second.new, second.position, second.index) == (("2", None), Position(0x1000, 6), 0)


def test_a_begin_starts_the_count_anew() -> None:
    later = Transaction(800, 0x2000, TRANSACTION.committed_at + 5)
    frames = [(0x900, change("I", b"N" + row("1", ""))), (0, begin(later)), (0x1900, change("I", b"N" + row("2", "")))]
    first, second = decode(segment([ORDERS], *frames))
    assert (first.position.ordinal, second.position, second.index) == (5, Position(0x2000, 0), 0)
    assert (second.transaction, second.transaction.timestamp) == (later, "2000-01-01T00:00:01.000005Z")


@pytest.mark.parametrize(
    ("identity", "body", "new", "old"),
    [
        ("d", b"N" + row("1", "n"), ("1", "n"), ("1", UNLOGGED)),
        ("d", b"K" + row("0", None) + b"N" + row("1", "n"), ("1", "n"), ("0", UNLOGGED)),
        ("d", b"N" + row("1", b"u"), ("1", UNCHANGED), ("1", UNLOGGED)),
        ("d", b"K" + row("0", None) + b"N" + row("1", b"u"), ("1", UNCHANGED), ("0", UNLOGGED)),
        ("d", b"K" + row("0", None) + b"N" + row(b"u", None), ("0", None), ("0", UNLOGGED)),
        ("f", b"O" + row("1", None) + b"N" + row("1", "n"), ("1", "n"), ("1", None)),
        ("f", b"O" + row("1", "o") + b"N" + row("1", b"u"), ("1", "o"), ("1", "o")),
        ("f", b"N" + row("1", "n"), ("1", "n"), (UNLOGGED, UNLOGGED)),  # of a leaf that logs less than its root
    ],
)
def test_an_update_knows_what_was_before(identity: str, body: bytes, new: object, old: object) -> None:
    described = relation(("id", INT, True), ("note", TEXT, identity == "f"), identity=identity)
    [found] = decode(segment([described], (0x900, change("U", body))))
    assert (found.op, found.new, found.old) == ("u", new, old)


def test_a_delete_has_the_old_row_alone() -> None:
    [found] = decode(segment([ORDERS], (0x900, change("D", b"K" + row("1", None)))))
    assert (found.op, found.new, found.old) == ("d", None, ("1", UNLOGGED))


def test_only_what_is_wanted_is_given_in_the_order_asked_for() -> None:
    body = b"O" + row("1", "old") + b"N" + row("2", "new")
    described = relation(("id", INT, True), ("note", TEXT, True), identity="f")
    found = segment([described], (0x900, change("U", body)), (0x901, change("D", b"O" + row("2", "new"))))
    [update, delete] = decode(found, lambda relation: (("note", "later", "id"), ("later", "note")))
    assert (update.new, update.old) == (("new", None, "2"), (UNLOGGED, "old"))
    assert delete.old == (UNLOGGED, "new")
    assert [one.old for one in decode(found, lambda relation: ((), ()))] == [(), ()]


def test_relations_that_nobody_wants_are_counted_all_the_same() -> None:
    frames = [(0x900, change("I", b"N" + row("1", ""))), (0x901, change("I", b"N" + row("x"), oid=8))]
    frames += [(0x902, struct.pack(">cIBII", b"T", 2, 0, 7, 8))]
    described = [ORDERS, relation(("v", TEXT, True), oid=8).replace(b"orders", b"others")]
    found = decode(segment(described, *frames), lambda relation: ((), ()) if relation.name == "others" else None)
    assert [(one.op, one.position.ordinal, one.index) for one in found] == [("c", 6, 0), ("t", 8, 1)]


def test_a_relation_among_the_frames_holds_from_there_on() -> None:
    altered = relation(("id", INT, True), ("note", INT, False), ("late", TEXT, False))
    frames = [(0x900, change("I", b"N" + row("1", "a"))), (0, altered), (0x901, change("I", b"N" + row("2", "3", "b")))]
    first, second = decode(segment([ORDERS], *frames))
    assert (first.new, second.new) == (("1", "a"), ("2", "3", "b"))
    assert second.relation
    assert [column.type_oid for column in second.relation.columns] == [INT, INT, TEXT]


@pytest.mark.parametrize(
    "payload",
    [
        b"?",
        b"",
        b"I",
        change("I", b"N" + row("1", "a"), oid=99),
        change("I", b"N" + row("1", "a")[:-6]),
        change("I", b"N" + struct.pack(">H", 2) + b"t" + struct.pack(">I", 2**31)),
        change("I", b"N" + row("1") + b"t" + struct.pack(">I", 1) + b"\xff"),
        change("D", b"N" + row("1", "a")),
        b"R\0\0\0\x07shop",
        b"T\0\0",
        struct.pack(">cQQI", b"B", 1, 2**63, 1),
    ],
)
def test_a_malformed_frame_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(segment([ORDERS], (0x900, payload)))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_decoded_or_refused_and_never_hangs(data: st.DataObject) -> None:
    survives(damaged(data, recording.segments("pgoutput")[0]))
