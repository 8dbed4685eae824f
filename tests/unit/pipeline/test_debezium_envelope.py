"""Debezium's envelope of a change, and its row's key."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from cdc_tracker.model import UNCHANGED, UNLOGGED, Change, Column, Position, Relation, Row, Transaction
from cdc_tracker.pipeline.debezium_envelope import as_envelope, envelope_writer, key_writer, row_key

COLUMNS = (("id", 20), ("amount", 1700), ("note", 25), ("größe", 23))
TRANSACTION = Transaction(731, 0x16B374D848, 1_767_225_600_123_456)


def relation(identity: str = "d", key: tuple[str, ...] = ("id",)) -> Relation:
    return Relation("shop", "orders", tuple(Column(name, oid, name in key or identity == "f") for name, oid in COLUMNS), identity)


def change(op: str, new: Row | None, old: Row | None, of: Relation | None = None) -> Change:
    return Change(op, of or relation(), new, old, Position(TRANSACTION.commit_lsn, 0), 0x16B374D000, 0, TRANSACTION)


def test_an_insert_has_its_row_behind_and_nothing_before() -> None:
    text = as_envelope(change("c", ("7", "9.50", 'a "b"', None), None), "shop")
    assert text == (
        '{"before":null,"after":{"id":7,"amount":9.50,"note":"a \\"b\\"","größe":null},'
        '"source":{"db":"shop","schema":"shop","table":"orders","op":"c","lsn":"16/B374D000","txId":731,"ts_ms":1767225600123},'
        '"op":"c","ts_ms":1767225600123}'
    )


def test_numbers_keep_every_digit() -> None:
    amount = "12345678901234567890123456789.000000000001"
    found = json.loads(as_envelope(change("c", ("1", amount, "", "2"), None), "shop"), parse_float=Decimal)
    assert found["after"]["amount"] == Decimal(amount)


def test_an_unchanged_toast_value_is_debeziums_placeholder_and_what_was_not_logged_is_left_out() -> None:
    update = change("u", ("7", "1", UNCHANGED, "3"), ("7", UNLOGGED, UNLOGGED, UNLOGGED))
    found = json.loads(as_envelope(update, "shop"))
    assert found["before"] == {"id": 7}
    assert found["after"]["note"] == "__debezium_unavailable_value"


def test_a_row_of_which_nothing_was_logged_is_null_and_so_are_both_of_a_truncate() -> None:
    update = change("u", ("7", "1", "", "3"), (UNLOGGED,) * 4, relation("n", ()))
    assert json.loads(as_envelope(update, "shop"))["before"] is None
    truncate = json.loads(as_envelope(change("t", None, None), "shop"))
    assert (truncate["before"], truncate["after"], truncate["op"]) == (None, None, "t")


def test_a_logical_message_is_shown_with_prefix_and_content() -> None:
    message = Change("m", None, None, None, Position(1, 0), 1, 0, TRANSACTION, "p", "ü")
    assert json.loads(envelope_writer(None, "shop")(message))["message"] == {"prefix": "p", "content": "ü"}


# The row's key.


def keys(given: Change, key: tuple[str, ...] = ("id",)) -> tuple[bytes, bytes]:
    names = tuple(name for name, _ in COLUMNS)
    assert given.relation is not None
    return key_writer(given.relation, key, names, names)(given)


def test_the_key_is_that_of_the_new_row_and_of_a_deleted_one_that_of_the_old() -> None:
    assert keys(change("c", ("7", "1", "", "3"), None)) == (b'{"id":7}', b"")
    assert keys(change("d", None, ("7", UNLOGGED, UNLOGGED, UNLOGGED))) == (b'{"id":7}', b"")
    assert keys(change("r", ("7", "1", "", "3"), None), ("note", "größe")) == ('{"note":"","größe":3}'.encode(), b"")


def test_an_update_that_gives_another_key_says_which_one_it_took() -> None:
    assert keys(change("u", ("8", "1", "", "3"), ("7", UNLOGGED, UNLOGGED, UNLOGGED))) == (b'{"id":8}', b'{"id":7}')
    assert keys(change("u", ("8", "1", "", "3"), ("8", UNLOGGED, UNLOGGED, UNLOGGED))) == (b'{"id":8}', b"")


def test_a_key_of_which_a_part_is_not_there_is_none() -> None:
    assert keys(change("d", None, ("7", UNLOGGED, UNLOGGED, UNLOGGED)), ("id", "note")) == (b"", b"")
    assert keys(change("t", None, None)) == (b"", b"")
    assert keys(change("c", ("7", "1", "", "3"), None), ()) == (b"", b"")


def test_a_key_column_that_was_not_logged_anew_is_taken_from_the_old_row() -> None:
    assert keys(change("u", ("7", "1", UNCHANGED, "3"), ("7", UNLOGGED, "long", "3")), ("note",)) == (b'{"note":"long"}', b"")
    assert keys(change("u", ("7", "1", UNCHANGED, "3"), (UNLOGGED,) * 4), ("note",)) == (b"", b"")


def test_the_key_columns_are_those_of_the_replica_identity() -> None:
    assert row_key(relation("d"), {}).columns == ("id",)
    assert row_key(relation("i", ("id", "größe")), {}).columns == ("id", "größe")


@pytest.mark.parametrize("identity", ["f", "n"])
def test_an_identity_that_is_no_key_leaves_it_open_and_says_so(identity: str) -> None:
    found = row_key(relation(identity, ()), {})
    assert found.columns == () and found.problem is not None
    assert "key_columns: {shop.orders: [id]}" in found.problem.hint
    assert row_key(relation("f"), {"shop.orders": ["id"]}) == (("id",), None)


def test_named_key_columns_that_are_not_there_or_not_logged_are_told() -> None:
    absent = row_key(relation(), {"shop.orders": ["nr"]})
    assert absent.columns == () and absent.problem is not None and "'nr'" in absent.problem.message
    bare = row_key(relation(), {"shop.orders": ["id", "note"]})
    assert bare.columns == ("id", "note") and bare.problem is not None and "not logged" in bare.problem.message
