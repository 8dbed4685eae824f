"""`explain`: why events came or did not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.config.config import Config
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position, Rejection
from cdc_tracker.printable import printable
from cdc_tracker.state import DeadLetter, Outcomes, State, sent_id
from cdc_tracker.worker.assemble import open_journal
from tests.hostile import TEXTS
from tests.unit.cli.conftest import Run
from tests.unit.pipeline.frames import Commit, Order, at, lsn_of, segments

MAPPING = """\
version: 1
events:
  - name: Order Paid
    table: shop.orders
    on: [insert, update]
    when: new.status == 'paid' and new.amount > 10.00 and new.email != 'nobody@example.com'
    user_id: new.user_id
    properties:
      order_id: {value: new.id, type: integer, maximum: 100}
  - name: Order Shipped
    key: shipped
    table: shop.orders
    on: [update]
    user_id: new.user_id
    destinations: [hook]
  - name: Order Shipped
    key: shipped_all
    table: shop.orders
    user_id: new.user_id
    destinations: [events]
  - name: Parcel Lost
    table: shop.parcels
    user_id: new.user_id
"""
COMMITS = [
    Commit(at(10), [Order(1, status="new"), Order(2, amount="9.50")]),
    Commit(at(20), [Order(3, amount="20.00", email="nobody@example.com"), Order(4, status="new", amount="2.00")]),
    Commit(at(30), [Order(5, amount="30.00"), Order(600, amount="40.00")]),
]


@pytest.fixture
def journal(config: Config, state: State, place: Path) -> Iterator[Journal]:
    (place / "mappings" / "orders.yml").write_text(MAPPING)
    with open_journal(config) as opened:
        yield opened


@pytest.fixture
def orders(journal: Journal) -> Journal:
    journal.append(segments(COMMITS))
    return journal


def explained(run: Run, *arguments: str) -> dict[str, Any]:
    told = run("explain", *arguments, "--json")
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def one(run: Run, *arguments: str) -> dict[str, Any]:
    [mapping] = explained(run, *arguments)["mappings"]
    found: dict[str, Any] = mapping
    return found


@pytest.mark.usefixtures("orders")
def test_each_change_is_told_with_the_part_that_was_false_and_the_values_it_saw(run: Run) -> None:
    found = one(run, "Order Paid")
    assert found["when"] == ["new.status == 'paid'", "new.amount > 10.00", "new.email != 'nobody@example.com'"]
    first, second, third, fourth, fifth, sixth = found["shown"]
    assert (first["key"], first["not"], first["values"]) == (
        {"id": 1},
        "new.status == 'paid'",
        {"new.status": "new", "new.amount": 9.50},
    )
    assert [each["part"] for each in first["failed"]] == ["new.status == 'paid'", "new.amount > 10.00"]
    assert (second["not"], second["values"]) == ("new.amount > 10.00", {"new.amount": 9.50})
    assert (third["not"], third["values"]) == ("new.email != 'nobody@example.com'", {"new.email": "•••"})
    assert fourth["outcome"] == "condition"
    assert fifth["outcome"] == "event"
    assert (sixth["outcome"], sixth["reason"], sixth["field"], sixth["values"]) == (
        "rejected",
        "above_maximum",
        "properties.order_id",
        {"new.id": 600},
    )


@pytest.mark.usefixtures("orders")
def test_the_summary_counts_every_change_whatever_is_shown(run: Run) -> None:
    told = run("explain", "Order Paid", "--limit", "0").output
    assert (
        "6 changes, 2 not new.status == 'paid', 1 not new.amount > 10.00, 1 not new.email != 'nobody@example.com', "
        "1 rejected as above_maximum (properties.order_id), 1 event"
    ) in told


@pytest.mark.usefixtures("orders")
def test_what_is_rare_is_shown_before_more_of_the_same(run: Run) -> None:
    shown = one(run, "Order Paid", "--limit", "3")["shown"]
    assert [each["outcome"] for each in shown] == ["condition", "event", "rejected"]


@pytest.mark.usefixtures("orders")
def test_an_operation_that_the_mapping_is_not_on_is_told(run: Run) -> None:
    shipped, all_ = explained(run, "Order Shipped")["mappings"]
    assert (shipped["mapping"], all_["mapping"]) == ("shipped", "shipped_all")
    assert shipped["summary"] == "6 changes, 6 on insert instead of update, 0 events"
    assert all_["summary"] == "6 changes, 6 events"
    assert all_["uncaptured"] == ["delete"]
    assert "No mapping is on delete of shop.orders" in run("explain", "shipped").output


@pytest.mark.usefixtures("orders")
def test_changes_are_chosen_by_key_by_lsn_and_by_time(run: Run) -> None:
    assert one(run, "Order Paid", "--key", "id=4")["changes"] == 1
    assert one(run, "Order Paid", "--key", "status=paid", "--key", "user_id=3")["changes"] == 4
    assert one(run, "Order Paid", "--key", "id=no number")["changes"] == 0
    commit, change = f"0/{lsn_of(1):X}", f"0/{lsn_of(0) + 0x21:X}"
    assert [each["key"]["id"] for each in one(run, "Order Paid", "--lsn", commit)["shown"]] == [3, 4]
    assert [each["key"]["id"] for each in one(run, "Order Paid", "--lsn", change)["shown"]] == [4]
    assert [each["key"]["id"] for each in one(run, "Order Paid", "--lsn", f"{commit}+1")["shown"]] == [4]
    later = one(run, "Order Paid", "--from", "2026-01-01T00:00:20Z", "--to", "2026-01-01T00:00:30Z")
    assert [each["key"]["id"] for each in later["shown"]] == [3, 4]


@pytest.mark.usefixtures("orders")
def test_wrong_names_are_answered_with_the_nearest(run: Run) -> None:
    told = run("explain", "Order Payd")
    assert told.exit_code == 2
    assert "did you mean 'Order Paid'?" in told.output
    told = run("explain", "Order Paid", "--key", "idd=4")
    assert told.exit_code == 2
    assert "the journal has no column 'idd' of shop.orders; did you mean 'id'?" in told.output
    assert run("explain", "Order Paid", "--key", "id").exit_code == 2
    assert run("explain", "Order Paid", "--lsn", "0/1+x").exit_code == 2
    assert run("explain", "Order Paid", "--lsn", "here").exit_code == 2


def test_an_empty_journal_and_a_table_without_changes_are_told(run: Run, journal: Journal) -> None:
    told = run("explain", "Order Paid")
    assert told.exit_code == 0
    assert "The journal is empty: nothing was captured." in told.output
    journal.append(segments(COMMITS))
    told = run("explain", "Parcel Lost")
    assert "The journal has no such change of shop.parcels in this range." in told.output
    assert "Earlier changes cannot be explained; `backfill`" in told.output


@pytest.mark.usefixtures("orders")
def test_what_is_older_than_the_journal_is_said_to_be_out_of_reach(run: Run) -> None:
    found = explained(run, "Order Paid", "--from", "2020-01-01")
    assert (found["clipped"], found["mappings"][0]["changes"], found["journal_begins"]) == (True, 6, "2026-01-01 00:00:10Z")
    told = run("explain", "Order Paid", "--from", "2020-01-01").output
    assert "The journal begins at 2026-01-01 00:00:10Z." in told
    assert "Earlier changes cannot be explained" in told
    assert "Earlier changes" not in run("explain", "Order Paid").output


def _destinations(found: dict[str, Any], number: int = -2) -> dict[str, tuple[str, str]]:
    return {each["destination"]: (each["stage"], each["reason"]) for each in found["shown"][number]["destinations"]}


@pytest.mark.usefixtures("orders")
def test_each_destinations_receipt_is_told_as_far_as_it_is_known(run: Run, state: State, place: Path) -> None:
    assert _destinations(one(run, "Order Paid")) == {"events": ("pending", ""), "hook": ("pending", "")}
    hour = at(30) // 3_600_000_000
    for name in ("events", "hook"):
        state.checkpoints.create("main", name, Position(0, -1))
    state.checkpoints.commit(
        "main",
        "events",
        Position(lsn_of(9), -1),
        Outcomes({(hour, "Order Paid", "matched"): 1, (hour, "Order Paid", "delivered"): 1}),
    )
    assert _destinations(one(run, "Order Paid")) == {"events": ("passed", ""), "hook": ("pending", "")}
    state.checkpoints.commit("main", "hook", Position(lsn_of(9), -1), Outcomes({}))
    assert _destinations(one(run, "Order Paid"))["hook"] == ("not_counted", "")
    assert _destinations(one(run, "Order Paid"), -1) == {"events": ("settled", ""), "hook": ("not_counted", "")}
    event = one(run, "Order Paid")["shown"][-2]
    state.checkpoints.commit("main", "hook", Position(lsn_of(9), -1), Outcomes({}, sent=[sent_id(event["message_id"])]))
    assert _destinations(one(run, "Order Paid"))["hook"] == ("sent", "")
    refusal = Rejection("refused", "Order Paid", Position(lsn_of(2), 0), at(30), "", "", "the vendor\x1b[31m says no")
    letter = DeadLetter.of("main", "events", refusal, b"")
    state.checkpoints.commit("main", "events", Position(lsn_of(9), -1), Outcomes({}, [letter]))
    assert _destinations(one(run, "Order Paid"))["events"] == ("parked", "refused")
    assert "\x1b" not in run("explain", "Order Paid").output
    config = (place / "cdc-tracker.yml").read_text()
    config = config.replace("path: out/}", "path: out/, dry_run: true}").replace("memory}", "memory, events: {except: [Order*]}}")
    (place / "cdc-tracker.yml").write_text(config)
    assert _destinations(one(run, "Order Paid"), -1) == {"events": ("settled", ""), "hook": ("not_counted", "")}
    assert _destinations(one(run, "shipped_all"), 0) == {"events": ("suppressed", "dry_run"), "hook": ("not_for_it", "")}


@pytest.mark.usefixtures("orders")
def test_an_event_from_before_the_mapping_was_loaded_is_not_said_to_be_sent(run: Run, state: State) -> None:
    hour = at(30) // 3_600_000_000
    state.checkpoints.create("main", "events", Position(0, -1))
    state.mappings.load("main", "events", ["Order Paid"], Position(lsn_of(9), -1))
    counts = {(hour, "Order Paid", "matched"): 1, (hour, "Order Paid", "delivered"): 1}  # of a later change of the same hour
    state.checkpoints.commit("main", "events", Position(lsn_of(9), -1), Outcomes(counts))
    assert _destinations(one(run, "Order Paid"))["events"] == ("not_counted", "")
    assert "events: not sent: its checkpoint has passed the change" in run("explain", "Order Paid").output
    replayed = {(hour, "Order Paid", "replayed"): 1}
    state.checkpoints.commit("main", "events", Position(lsn_of(9), -1), Outcomes(replayed))
    assert _destinations(one(run, "Order Paid"))["events"] == ("passed", "")


@pytest.mark.usefixtures("orders")
def test_a_file_that_has_changed_since_a_destination_sent_is_told(run: Run, state: State, place: Path) -> None:
    file = place / "mappings" / "orders.yml"
    state.checkpoints.create("main", "events", Position(0, -1))
    state.in_hand.take_mappings("main", "events", {str(file): MAPPING})
    assert one(run, "Order Paid")["sent_with_other_mappings"] == []
    file.write_text(MAPPING.replace("10.00", "5.00"))
    assert one(run, "Order Paid")["sent_with_other_mappings"] == ["events"]
    told = run("explain", "Order Paid").output
    assert "events last sent events with another content of this file" in told
    assert "with the mappings as they are now" in told


def test_no_hostile_value_reaches_the_terminal_or_breaks_the_json(run: Run, journal: Journal) -> None:
    rows = [Order(number, status=text) for number, text in enumerate(TEXTS.values()) if "\0" not in text]
    journal.append(segments([Commit(at(10), rows)]))
    told = run("explain", "Order Paid", "--limit", "100").output
    assert told == printable(told)
    assert max(map(len, told.splitlines())) < 300
    shown = one(run, "Order Paid", "--limit", "100")["shown"]
    assert [each["values"]["new.status"] for each in shown] == [row.status for row in rows]


LETS = """\
version: 1
events:
  - name: {value: "'Order Raised' if big else 'Order Lowered'"}
    key: moved
    table: shop.orders
    let:
      limit: "10.00"
      big: new.amount > limit
      state: lower(new.status)
      paid: state == 'paid'
      address: new.email
    when: |
      paid
      and (new.user_id == 3 or new.user_id == 4)
      and address != 'nobody@example.com' and (not entered(new.status, 'new') and state != 'x')
    user_id: new.user_id
    properties: {big: big}
"""


@pytest.mark.usefixtures("orders")
def test_names_of_let_and_names_that_the_row_chooses_are_told(run: Run, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(LETS)
    found = one(run, "Order Lowered")
    assert found["summary"] == (
        "6 changes, 2 not paid, 1 not address != 'nobody@example.com', 3 events (1 Order Lowered, 2 Order Raised)"
    )
    first, second, third, *_ = found["shown"]
    assert (first["not"], first["values"]) == ("paid", {"new.status": "new"})
    assert (second["outcome"], second["event"]) == ("event", "Order Lowered")
    assert third["values"] == {"new.email": "•••"}
