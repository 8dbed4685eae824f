from __future__ import annotations

import json
from pathlib import Path

from tests.unit.cli.conftest import MAPPING, Run


def test_examples_that_hold_are_counted(run: Run) -> None:
    told = run("test-mappings")
    assert told.exit_code == 0
    assert "1 example passed" in told.output


def test_a_failing_example_shows_both_sides_and_the_difference(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(MAPPING.replace("properties: {order_id: 7}", "properties: {order_id: 8}"))
    told = run("test-mappings")
    assert told.exit_code == 1
    assert "mappings/orders.yml:10: Order Paid, example 1" in told.output
    assert "properties.order_id: expected 8, got 7" in told.output
    assert "0 examples passed, 1 failed" in told.output


def test_results_are_given_as_json(run: Run) -> None:
    told = json.loads(run("test-mappings", "--json").output)
    assert [(each["mapping"], each["passed"]) for each in told["examples"]] == [("Order Paid", True)]
    assert told["problems"] == []


def test_paths_need_no_configuration(run: Run, place: Path) -> None:
    (place / "cdc-tracker.yml").unlink()
    assert run("test-mappings", "mappings/orders.yml").exit_code == 0
    assert run("test-mappings", "mappings").exit_code == 0


def test_a_mistake_in_a_file_is_told_with_its_place(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(MAPPING.replace("user_id:", "userid:", 1))
    told = run("test-mappings")
    assert told.exit_code == 1
    assert "mappings/orders.yml:7: events[0].userid: is not a known key; did you mean 'user_id'?" in told.output
    problems = json.loads(run("test-mappings", "--json").output)["problems"]
    assert problems[0]["key"] == "events[0].userid"


def test_a_destination_that_is_not_configured_is_found(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(MAPPING.replace("    table:", "    destinations: [event]\n    table:"))
    told = run("test-mappings")
    assert told.exit_code == 1
    assert "there is no destination 'event'; did you mean 'events'?" in told.output


def test_mappings_without_an_example_are_named(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(MAPPING.split("    examples:")[0])
    told = run("test-mappings")
    assert told.exit_code == 0
    assert "without an example: Order Paid" in told.output


def test_warnings_are_counted_and_do_not_fail(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(MAPPING.replace("entered(new.status, 'paid')", "new.status == 'paid'"))
    told = run("test-mappings")
    assert told.exit_code == 0
    assert "⚠ " in told.output
    assert "mappings/orders.yml:6: events[0].when: `new.status == 'paid'` asks for a state" in told.output
    assert told.output.endswith("1 example passed\nCheck passed: 0 errors, 1 warning\n")
    [problem] = json.loads(run("test-mappings", "--json").output)["problems"]
    assert problem["severity"] == "warning"


def test_an_error_that_needs_no_database_fails_though_the_examples_pass(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(
        MAPPING.replace("entered(new.status, 'paid')", "new.status == 'paid' or 'sent'")
    )
    for arguments in ([], ["mappings"]):
        told = run("test-mappings", *arguments)
        assert told.exit_code == 1
        assert "`or 'sent'` is always true" in told.output
        assert "1 example passed" in told.output
        assert "Check failed: 1 error, " in told.output


def test_a_file_that_does_not_load_ends_with_the_count_of_its_errors(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(MAPPING.replace("user_id:", "userid:", 1).replace("table:", "tabel:"))
    told = run("test-mappings")
    assert told.exit_code == 1
    assert told.output.endswith("Check failed: 3 errors, 0 warnings\n")


def test_names_that_no_mapping_has_are_found_in_the_destinations(run: Run, place: Path) -> None:
    config = place / "cdc-tracker.yml"
    config.write_text(config.read_text().replace("{type: memory}", "{type: memory, properties: {except: [ordr_id]}}"))
    told = run("test-mappings")
    assert told.exit_code == 0
    assert "destinations.hook: properties.except: no mapping has a property 'ordr_id'; did you mean 'order_id'?" in told.output
