from __future__ import annotations

import pytest

from cdc_tracker.cli import naming


@pytest.mark.parametrize(
    ("table", "noun"),
    [
        ("orders", "Order"),
        ("order_items", "Order Item"),
        ("OrderItems", "Order Item"),
        ("companies", "Company"),
        ("addresses", "Address"),
        ("order_statuses", "Order Status"),
        ("boxes", "Box"),
        ("branches", "Branch"),
        ("warehouses", "Warehouse"),
        ("purchases", "Purchase"),
        ("invoice", "Invoice"),
        ("news", "News"),
        ("people", "Person"),
        ("api_keys", "Api Key"),
        ("status", "Status"),
        ("ties", "Tie"),
        ("Заказы", "Заказы"),
    ],
)
def test_a_tables_name_becomes_what_one_row_is(table: str, noun: str) -> None:
    assert naming.noun(table) == noun


def test_the_user_column_is_found_whatever_its_case() -> None:
    assert naming.user_column(["id", "customerId", "total"]) == "customerId"
    assert naming.user_column(["account_id", "user_id"]) == "user_id"
    assert naming.user_column(["id", "total"]) is None


def test_personal_columns_are_known_by_their_words() -> None:
    personal = ["email", "billing_email", "firstName", "ship_address", "password_hash", "api_token", "ssn", "ip"]
    plain = ["amount", "ipsum", "status", "monkey_count", "created_at", "renamed"]
    assert [naming.is_personal(column) for column in personal] == [True] * len(personal)
    assert [naming.is_personal(column) for column in plain] == [False] * len(plain)


def test_status_columns_are_known_by_their_last_word() -> None:
    assert naming.is_status("status")
    assert naming.is_status("paymentState")
    assert not naming.is_status("status_changed_at")
