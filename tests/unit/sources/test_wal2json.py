"""wal2json's frames, literally, and recorded ones damaged at random."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_tracker.model import START, UNCHANGED, UNLOGGED, Change, Column, Missing, OpenTransaction, Position, Segment, Transaction
from cdc_tracker.sources.postgres import wal2json
from cdc_tracker.sources.postgres.decoding import Wanted
from tests.unit.sources.damage import damaged, every_column, survives
from tests.wal import recording

TRANSACTION = Transaction(731, 0x1000, 1_000_000)
OPEN = OpenTransaction(TRANSACTION, 5, 0x900, 2)
BEGIN = '{"action":"B","xid":9,"timestamp":"1970-01-01 00:00:02.5+00","lsn":"0/2000","nextlsn":"0/2030"}'
INT, TEXT, FLOAT, NUMERIC, BYTEA, BOOL, JSONB = 23, 25, 701, 1700, 17, 16, 3802


def described(
    *columns: tuple[str, int, bool], identity: str = "d", table: str = "orders", root: str = ""
) -> wal2json.Description:
    return wal2json.Description("shop", table, "shop", root or table, identity, columns)


def cells(*given_cells: tuple[str, int, str]) -> str:
    return ",".join(f'{{"name":{json.dumps(name)},"typeoid":{oid},"value":{value}}}' for name, oid, value in given_cells)


def frame(action: str, columns: str | None = None, identity: str | None = None, table: str = "orders") -> str:
    parts = [
        f'"action":"{action}","xid":731,"timestamp":"1970-01-01 00:00:01+00","lsn":"0/900","schema":"shop","table":"{table}"'
    ]
    parts += [f'"columns":[{columns}]'] if columns is not None else []
    parts += [f'"identity":[{identity}]'] if identity is not None else []
    return "{" + ",".join(parts) + "}"


def segment(descriptions: list[wal2json.Description], *frames: tuple[int, str | bytes]) -> Segment:
    payloads = [(lsn, text if isinstance(text, bytes) else text.encode()) for lsn, text in frames]
    joined = b"".join(struct.pack(">IQ", len(payload), lsn) + payload for lsn, payload in payloads)
    first = Position(0x1000, 5)
    relations = tuple(msgspec.json.encode(one) for one in descriptions)
    return Segment("wal2json", joined, len(frames), len(frames), first, first, 0, 0, relations, OPEN)


def decode(found: Segment, wanted: Wanted = every_column) -> list[Change]:
    return list(wal2json.Decoder(wanted).changes(found, START))


ORDERS = described(("id", INT, True), ("note", TEXT, False))


@pytest.mark.parametrize(
    ("oid", "value", "text"),
    [
        (INT, "-5", "-5"),
        (NUMERIC, "1.5000", "1.5000"),
        (NUMERIC, "123456789012345678901234567890", "123456789012345678901234567890"),
        (NUMERIC, "9" * 6000, "9" * 6000),
        (NUMERIC, "-" + "9" * 6000, "-" + "9" * 6000),
        (FLOAT, "-0", "-0"),
        (FLOAT, "0", "0"),
        (FLOAT, "1e+20", "1e+20"),
        (FLOAT, "1e-07", "1e-07"),
        (FLOAT, "null", None),
        (BOOL, "true", "t"),
        (BOOL, "false", "f"),
        (BYTEA, '"00ff"', "\\x00ff"),
        (BYTEA, '""', "\\x"),
        (TEXT, '"a\\"b\\\\c\\n\\u0001größe 🛒"', 'a"b\\c\n\x01größe 🛒'),
        (TEXT, '"null"', "null"),
        (TEXT, '""', ""),
        (JSONB, '"{\\"a\\": 1.50}"', '{"a": 1.50}'),
        (999_999, '"\\\\x00"', "\\x00"),  # a domain over bytea has an oid of its own: the text is as the server prints it
    ],
)
def test_a_value_is_the_text_that_the_server_prints(oid: int, value: str, text: str | None) -> None:
    table = described(("v", oid, True), ("other", TEXT, False))
    columns = cells(("v", oid, value), ("other", TEXT, '"x"'))
    [insert, delete] = decode(
        segment([table], (0x900, frame("I", columns)), (0x901, frame("D", identity=cells(("v", oid, value)))))
    )
    assert insert.new == (text, "x")
    assert delete.old == (text, UNLOGGED)


def test_positions_go_on_and_begin_anew() -> None:
    row = cells(("id", INT, "1"), ("note", TEXT, "null"))
    first, second, third = decode(
        segment([ORDERS], (0x900, frame("I", row)), (0x900, frame("I", row)), (0, BEGIN), (0x1900, frame("I", row)))
    )
    assert (first.position, first.index, second.position, second.index) == (Position(0x1000, 5), 3, Position(0x1000, 6), 4)
    assert (third.position, third.index, third.transaction) == (Position(0x2000, 0), 0, Transaction(9, 0x2000, 2_500_000))
    assert first.transaction == TRANSACTION


def test_unchanged_toast_is_filled_from_the_old_row_where_that_has_it() -> None:
    whole = described(("id", INT, True), ("note", TEXT, True), identity="f")
    update = frame("U", cells(("id", INT, "1")), cells(("id", INT, "1"), ("note", TEXT, '"old"')))
    [filled] = decode(segment([whole], (0x900, update)))
    assert (filled.new, filled.old) == (("1", "old"), ("1", "old"))
    [kept] = decode(segment([ORDERS], (0x900, frame("U", cells(("id", INT, "1")), cells(("id", INT, "1"))))))
    assert (kept.new, kept.old) == (("1", UNCHANGED), ("1", UNLOGGED))


@pytest.mark.parametrize(
    ("shown", "new"),
    [
        ([("id", INT, "1"), ("gone", INT, "5"), ("note", TEXT, '"n"')], {"id": "1", "gone": "5", "note": "n"}),
        ([("id", INT, "1")], {"id": "1"}),
        ([("id", TEXT, '"1"'), ("note", TEXT, '"n"')], {"id": "1", "note": "n"}),
        ([("note", TEXT, '"n"'), ("id", INT, "1")], {"note": "n", "id": "1"}),
        ([("id", INT, "1"), ("renamed", TEXT, '"n"')], {"id": "1", "renamed": "n"}),
    ],
)
def test_an_insert_is_read_as_it_shows_itself(shown: list[tuple[str, int, str]], new: dict[str, str]) -> None:
    """Whatever the catalog said before or after."""
    [found] = decode(segment([ORDERS], (0x900, frame("I", cells(*shown)))))
    assert found.relation
    assert dict(zip([column.name for column in found.relation.columns], found.new or (), strict=True)) == new
    assert [(column.name, column.type_oid) for column in found.relation.columns] == [(name, oid) for name, oid, _ in shown]


def test_an_update_with_a_column_less_and_a_column_more_mixes_up_neither() -> None:
    table = described(("id", INT, True), ("body", TEXT, False), ("note", TEXT, False), ("late", INT, False))
    shown = cells(("id", INT, "1"), ("note", TEXT, '"n"'), ("gone", INT, "7"))
    [found] = decode(segment([table], (0x900, frame("U", shown, cells(("id", INT, "1"))))))
    assert found.relation
    names = [column.name for column in found.relation.columns]
    assert dict(zip(names, found.new or (), strict=True)) == {"id": "1", "body": UNCHANGED, "note": "n", "gone": "7"}
    assert [column for column in found.relation.columns if column.key] == [Column("id", INT, True)]


def test_a_message_that_is_not_utf_8_is_read_all_the_same() -> None:
    text = b'{"action":"M","xid":1,"timestamp":null,"lsn":"0/1","transactional":true,"prefix":"cdc_tracker","content":"\xffA"}'
    [found] = decode(segment([], (0x900, text)))
    assert (found.op, found.prefix, found.content) == ("m", "cdc_tracker", Missing.UNREADABLE)


def test_a_row_that_is_not_utf_8_is_refused() -> None:
    row = frame("I", cells(("id", INT, "1"), ("note", TEXT, '"?"'))).encode().replace(b"?", b"\xe9")
    with pytest.raises(ValueError, match=r"(?i)utf-8"):
        decode(segment([ORDERS], (0x900, row)))


def wal_frame(lsn: int, text: str) -> memoryview:
    return memoryview(b"w" + struct.pack(">QQQ", lsn, 0, 0) + text.encode())


@pytest.mark.parametrize(
    ("description", "counted"),
    [
        (described(("id", INT, True)), "IUDT"),
        (described(("id", INT, True), table="orders", root="all_orders"), "IUD"),
        (described(("id", INT, False), identity="n"), "IUD"),  # an update or delete came while there was an identity
        (None, ""),
    ],
)
def test_only_what_a_publication_would_send_is_counted(description: wal2json.Description | None, counted: str) -> None:
    builder = wal2json.Builder(START, lambda schema, table: description)
    builder.add(wal_frame(0, BEGIN))
    for place, action in enumerate("IUDT"):
        builder.add(wal_frame(0x900 + place, frame(action, cells(("id", INT, "1")), cells(("id", INT, "1")))))
    builder.add(wal_frame(0x910, '{"action":"C","lsn":"0/2000","nextlsn":"0/2030"}'))
    made = builder.close()
    assert (made.changes if made else 0) == len(counted)
    assert builder.seen == Position(0x2030, -1)


def test_the_catalog_is_asked_once_until_told_to_forget() -> None:
    asked: list[Any] = []
    builder = wal2json.Builder(START, lambda schema, table: asked.append((schema, table)))
    builder.add(wal_frame(0, BEGIN))
    for _ in range(3):
        builder.add(wal_frame(0x900, frame("I", "", table='o\\"é')))
    builder.forget()
    builder.add(wal_frame(0x900, frame("I", "", table='o\\"é')))
    assert asked == [("shop", 'o"é')] * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"action":"I"}',
        '{"action":"X","schema":"shop","table":"orders"}',
        frame("I", table="unknown"),
        '{"action":"B","xid":1,"timestamp":"never","lsn":"0/1"}',
        '{"action":"B","xid":1,"timestamp":"1970-01-01 00:00:00+00","lsn":"x"}',
        '{"action":"B","xid":1,"timestamp":"9999-12-31 23:59:59","lsn":"0/1"}',
    ],
)
def test_a_malformed_frame_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(segment([ORDERS], (0x900, text)))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_decoded_or_refused_and_never_hangs(data: st.DataObject) -> None:
    survives(damaged(data, recording.segments("wal2json")[0]))
