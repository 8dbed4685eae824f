from __future__ import annotations

import pytest

from cdc_tracker.mapping.lints import column_names
from cdc_tracker.operations import scaffold_names


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
        ("page_caches", "Page Cache"),
        ("feature_matrices", "Feature Matrix"),
        ("heroes", "Hero"),
        ("cookies", "Cookie"),
        ("print_sizes", "Print Size"),
        ("email_aliases", "Email Alias"),
        ("skus", "Sku"),
        ("bonus", "Bonus"),
        ("drives", "Drive"),
        ("clauses", "Clause"),
        ("posts", "Post"),
        ("Заказы", "Заказы"),
    ],
)
def test_a_tables_name_becomes_what_one_row_is(table: str, noun: str) -> None:
    assert scaffold_names.noun(table) == noun


def test_the_user_column_is_found_whatever_its_case() -> None:
    assert column_names.user_column("orders", "id", ["id", "customerId", "total"]) == "customerId"
    assert column_names.user_column("orders", "id", ["account_id", "user_id"]) == "user_id"
    assert column_names.user_column("orders", "id", ["id", "total"]) is None


@pytest.mark.parametrize(
    ("table", "key", "columns", "found"),
    [
        ("users", "id", ["id", "account_id", "created_by"], "id"),
        ("User", "uuid", ["uuid", "email"], "uuid"),
        ("Account", "id", ["id", "userId", "provider"], "userId"),  # a user's login at another service
        ("accounts", "id", ["id", "name"], "id"),
        ("profiles", "id", ["id", "user_id"], "user_id"),
        ("customers", "id", ["id", "account_id"], "id"),
        ("customers", None, ["tenant", "id"], None),  # no single column names a row
        ("user_settings", "id", ["id", "theme"], None),
    ],
)
def test_a_table_of_users_is_named_by_its_key_unless_a_surer_column_is_there(
    table: str, key: str | None, columns: list[str], found: str | None
) -> None:
    assert column_names.user_column(table, key, columns) == found


def test_personal_columns_are_known_by_their_words() -> None:
    personal = ["email", "billing_email", "firstName", "ship_address", "password_hash", "api_token", "ssn", "ip"]
    plain = ["amount", "ipsum", "status", "monkey_count", "created_at", "renamed"]
    assert [column_names.may_be_personal(column) for column in personal] == [True] * len(personal)
    assert [column_names.may_be_personal(column) for column in plain] == [False] * len(plain)


def test_status_columns_are_known_by_their_last_word() -> None:
    assert scaffold_names.is_status("status")
    assert scaffold_names.is_status("paymentState")
    assert not scaffold_names.is_status("status_changed_at")
