"""How a table is named in configuration and mappings: as the catalog has it, and never as two tables at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_tracker.model import split_name, table_name

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('".'), min_size=1)


@given(NAMES, NAMES)
def test_a_name_leads_to_one_table_only(schema: str, name: str) -> None:
    assert split_name(table_name(schema, name)) == (schema, name)


@pytest.mark.parametrize(
    ("given", "schema", "name", "as_written"),
    [
        ("shop.orders", "shop", "orders", "shop.orders"),
        ("my.app.orders", "my", "app.orders", "my.app.orders"),
        ('"my.app".orders', "my.app", "orders", '"my.app".orders'),
        ('"my.app"."or""ders"', "my.app", 'or"ders', '"my.app".or"ders'),
        ('shop."orders"', "shop", "orders", "shop.orders"),
        ('My Shop.Order; DROP "x', "My Shop", 'Order; DROP "x', 'My Shop.Order; DROP "x'),
        ("orders", "public", "orders", "public.orders"),
    ],
)
def test_names_are_read_unquoted_or_as_in_sql(given: str, schema: str, name: str, as_written: str) -> None:
    assert split_name(given) == (schema, name)
    assert table_name(schema, name) == as_written


@pytest.mark.parametrize("text", ["", ".orders", "shop.", '"my.app.orders', '"my.app"orders', 'shop."orders', '"".x'])
def test_what_names_no_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a table's name"):
        split_name(text)
