"""What other mappings would make of a range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_tracker.journal import Journal
from cdc_tracker.mapping import load_texts
from cdc_tracker.model import START, Position
from cdc_tracker.operations.diff import MAX_PATHS, Difference, Sample, Side, difference
from tests.unit.pipeline.frames import Commit, Order, at, lsn_of, pipeline, segments

BEFORE = """
version: 1
events:
  - name: Order Placed
    table: shop.orders
    user_id: new.user_id
    properties:
      total: {value: new.amount, type: number, maximum: 100}
      email: {value: new.email, pii: true}
      lines: "[{'sku': new.id, 'buyer': new.email}]"
"""
COMMITS = [
    Commit(at(10), [Order(1), Order(2, status="new", amount="20.00")]),
    Commit(at(20), [Order(3, amount="100.01"), Order(4, status="new", email="b@example.com")]),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(f"sqlite:///{tmp_path}/journal.sqlite", "main") as opened:
        opened.append(segments(COMMITS))
        yield opened


def _side(mapping: str) -> Side:
    return Side(load_texts({"events.yml": mapping}), pipeline(mapping))


def _compared(
    journal: Journal, *replaced: tuple[str, str], samples: int = 3, after: Position = START, upto: Position | None = None
) -> Difference:
    """Against the mapping with texts replaced."""
    text = BEFORE
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    before = _side(BEFORE)
    upto = upto or journal.end() or START
    return difference(before, _side(text), journal, after, upto, captured=before.mappings, samples=samples)


def _counts(found: Difference, key: str = "Order Placed") -> tuple[int, int, int, int]:
    each = found.events[key]
    return each.added, each.removed, each.changed, each.unchanged


def _cells(sample: Sample) -> dict[str, tuple[str | None, str | None]]:
    return {cell.path: (cell.old, cell.new) for cell in sample.cells}


def test_the_same_mappings_make_no_difference(journal: Journal) -> None:
    found = _compared(journal)
    assert _counts(found) == (0, 0, 0, 3)
    assert not found.differs
    assert found.changes == 4
    assert found.events["Order Placed"].before == found.events["Order Placed"].after == {"above_maximum": 1}


def test_another_order_of_the_properties_is_no_difference(journal: Journal) -> None:
    total = "      total: {value: new.amount, type: number, maximum: 100}\n"
    lines = "      lines: \"[{'sku': new.id, 'buyer': new.email}]\"\n"
    assert _counts(_compared(journal, (total, ""), (lines, lines + total))) == (0, 0, 0, 3)


def test_a_condition_adds_or_removes_events(journal: Journal) -> None:
    found = _compared(journal, ("    user_id", "    when: new.status == 'paid'\n    user_id"))
    assert _counts(found) == (0, 2, 0, 1)
    first, second = found.events["Order Placed"].samples["removed"]
    assert first.position == Position(lsn_of(0), 1)
    assert _cells(first)["properties.total"] == ("20.00", None)
    assert second.committed_at == at(20)


def test_what_was_rejected_and_is_not_any_more_is_added(journal: Journal) -> None:
    found = _compared(journal, ("maximum: 100", "maximum: 200"))
    each = found.events["Order Placed"]
    assert _counts(found) == (1, 0, 0, 3)
    assert (dict(each.before), dict(each.after)) == ({"above_maximum": 1}, {})
    assert _cells(each.samples["added"][0])["properties.total"] == (None, "100.01")


def test_what_is_rejected_now_is_removed_and_says_why(journal: Journal) -> None:
    each = _compared(journal, ("maximum: 100", "maximum: 15")).events["Order Placed"]
    assert (each.removed, dict(each.after)) == (1, {"above_maximum": 2})
    [sample] = each.samples["rejected"]
    assert (sample.reason, sample.field) == ("above_maximum", "properties.total")
    assert "20.00" in sample.detail


def test_a_changed_event_tells_each_value_before_and_after(journal: Journal) -> None:
    found = _compared(
        journal, ("total: {value: new.amount, type: number, maximum: 100}", "total: string(new.amount)\n      status: new.status")
    )
    each = found.events["Order Placed"]
    assert _counts(found) == (1, 0, 3, 0)
    assert each.paths == {"properties.total": 3, "properties.status": 3}
    assert _cells(each.samples["changed"][0]) == {
        "properties.total": ("9.50", '"9.50"'),
        "properties.status": (None, '"paid"'),
    }


def test_elements_of_lists_are_told_each_and_counted_as_one(journal: Journal) -> None:
    each = _compared(journal, ("'sku': new.id,", "'sku': new.id + 1, 'n': 1,")).events["Order Placed"]
    assert each.paths == {"properties.lines[].sku": 3, "properties.lines[].n": 3}
    assert _cells(each.samples["changed"][0]) == {"properties.lines[0].sku": ("1", "2"), "properties.lines[0].n": (None, "1")}


def test_personal_values_are_masked_wherever_either_side_says_so(journal: Journal) -> None:
    found = _compared(
        journal,
        ("email: {value: new.email, pii: true}", "email: {value: upper(new.email)}"),
        ("\"[{'sku': new.id, 'buyer': new.email}]\"", "{value: \"[{'buyer': upper(new.email)}]\", items: {pii: true}}"),
    )
    cells = _cells(found.events["Order Placed"].samples["changed"][0])
    assert cells == {
        "properties.email": ('"•••"', '"•••"'),
        "properties.lines[0].sku": ('"•••"', None),
        "properties.lines[0].buyer": ('"•••"', '"•••"'),
    }
    removed = _compared(journal, ("    user_id", "    when: 'False'\n    user_id")).events["Order Placed"].samples["removed"]
    assert _cells(removed[0])["properties.email"] == ('"•••"', None)


def test_a_rejection_quotes_no_value_that_either_side_calls_personal(journal: Journal) -> None:
    each = _compared(journal, ("{value: new.email, pii: true}", "{value: new.email, pattern: '^b'}")).events["Order Placed"]
    assert [(sample.field, sample.detail) for sample in each.samples["rejected"]] == [("properties.email", "")] * 2


def test_another_key_or_id_is_another_event_and_says_so(journal: Journal) -> None:
    found = _compared(journal, ("    table", "    key: placed\n    table"))
    assert (_counts(found), _counts(found, "placed")) == ((0, 3, 0, 0), (3, 0, 0, 0))
    found = _compared(journal, ("    table", "    id: [new.id]\n    table"))
    assert _counts(found) == (3, 3, 0, 0)
    assert found.events["Order Placed"].renamed == 3


def test_only_the_range_is_compared_to_the_change(journal: Journal) -> None:
    found = _compared(
        journal, ("new.amount", "-new.amount"), after=Position(lsn_of(0), 0), upto=Position(lsn_of(1), 0), samples=0
    )
    assert _counts(found) == (1, 0, 1, 0)
    assert not any(found.events["Order Placed"].samples.values())


def test_samples_are_the_first_of_each_kind(journal: Journal) -> None:
    each = _compared(journal, ("new.amount", "-new.amount"), samples=2).events["Order Placed"]
    assert [sample.position.ordinal for sample in each.samples["changed"]] == [0, 1]


def test_a_table_or_operation_that_was_never_captured_is_told(journal: Journal) -> None:
    cart = "  - {name: Cart Created, table: shop.carts, user_id: new.user_id}\n"
    dropped = "  - {name: Order Dropped, table: shop.orders, on: [delete], user_id: old.user_id}\n"
    found = _compared(journal, ("events:\n", f"events:\n{cart}{dropped}"))
    table, operation = found.missing
    assert table.startswith("Cart Created: the journal has no change of shop.carts in this range. No mapping in force reads")
    assert operation.startswith("Order Dropped: the journal has no delete of shop.orders in this range. No mapping in force")
    assert _counts(found, "Cart Created") == (0, 0, 0, 0)


def test_a_column_that_the_journal_does_not_have_is_told_with_its_place(journal: Journal) -> None:
    found = _compared(journal, ("new.amount", "new.amont"))
    [told] = found.missing
    assert "events.yml:8" in told
    assert "shop.orders has no column 'amont'; did you mean 'amount'" in told
    assert found.events["Order Placed"].after == {"column_missing": 4}


def test_names_made_of_data_do_not_grow_without_end(journal: Journal) -> None:
    journal.append([])
    many = ", ".join(f"'k{number}': {number}" for number in range(MAX_PATHS + 50))
    each = _compared(journal, ("\"[{'sku': new.id, 'buyer': new.email}]\"", f'"{{{many}}}"')).events["Order Placed"]
    assert len(each.paths) == MAX_PATHS + 1
    assert each.paths["others"] > 0
