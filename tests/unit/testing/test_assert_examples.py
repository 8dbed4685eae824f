from __future__ import annotations

from pathlib import Path

import pytest

from cdc_tracker.testing import assert_examples

MAPPING = """\
version: 1
events:
  - name: Order Paid
    table: shop.orders
    on: [update]
    when: new.status == 'paid' and old.status != 'paid'
    user_id: new.user_id
    properties:
      revenue: {{value: new.amount, type: number, required: true}}
    examples:
      - old: {{status: pending}}
        new: {{user_id: 3, status: paid, amount: "9.50"}}
        event: {{event: Order Paid, userId: "3", properties: {{revenue: {revenue}}}}}
"""


def test_examples_that_hold_are_counted(tmp_path: Path) -> None:
    (tmp_path / "orders.yml").write_text(MAPPING.format(revenue="9.50"))
    assert assert_examples(tmp_path) == 1


def test_an_example_that_fails_shows_expected_and_got(tmp_path: Path) -> None:
    (tmp_path / "orders.yml").write_text(MAPPING.format(revenue="9.40"))
    with pytest.raises(AssertionError, match=r"9\.40?[\s\S]*9\.50?"):
        assert_examples(tmp_path)


def test_mappings_without_examples_do_not_pass(tmp_path: Path) -> None:
    (tmp_path / "orders.yml").write_text(MAPPING.format(revenue="1").split("    examples:")[0])
    with pytest.raises(AssertionError, match="no mapping"):
        assert_examples(tmp_path)


def test_the_demo_shops_mappings_hold() -> None:
    assert assert_examples(Path(__file__).parents[3] / "mappings") >= 10
