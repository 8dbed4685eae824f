"""`events`: recent events beside their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.points import EARLIEST
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Position
from cdc_tracker.operations.events import Feed
from cdc_tracker.operations.masking import Personal
from cdc_tracker.printable import printable
from cdc_tracker.state import State
from cdc_tracker.worker.assemble import load_mappings, open_journal
from tests.hostile import TEXTS, VALUES
from tests.unit.cli.conftest import Run
from tests.unit.pipeline.frames import Commit, Order, at, segments

MAPPING = """\
version: 1
events:
  - name: Order Paid
    table: shop.orders
    when: new.status == 'paid'
    user_id: new.email
    properties:
      order_id: {value: new.id, type: integer, maximum: 100}
      buyer: {value: "{'city': new.status, 'email': new.email}"}
      contact: new.email
      note: {value: new.user_id, pii: true}
  - name: Order Seen
    key: seen
    table: shop.orders
    user_id: new.user_id
"""


MEMBERS = """\
version: 1
events:
  - name: Order Seen
    table: shop.orders
    let: {mail: "get(new.status, 'email')"}
    user_id: new.id
    properties:
      a: get(new.status, 'email')
      b: new.status['customer']['phone']
      c: mail + '!'
      d: get(new.status, 'plan')
"""


@pytest.fixture
def journal(config: Config, state: State, place: Path) -> Iterator[Journal]:
    (place / "mappings" / "orders.yml").write_text(MAPPING)
    with open_journal(config) as opened:
        yield opened


@pytest.fixture
def orders(journal: Journal) -> Journal:
    """Fifty transactions, each a segment: the orders 1 to 50, of which every tenth is paid."""
    rows = [Order(number, status="new" if number % 10 else "paid") for number in range(1, 51)]
    journal.append(segments([Commit(at(row.id), [row]) for row in rows]))
    return journal


def seen(run: Run, *arguments: str) -> list[dict[str, Any]]:
    told = run("events", *arguments, "--json")
    assert told.exit_code == 0, told.output
    return [json.loads(line) for line in told.stdout.splitlines()]


def ids(found: list[dict[str, Any]]) -> list[int]:
    return [each["row"]["new"]["id"] for each in found]


@pytest.mark.usefixtures("orders")
def test_the_last_events_are_shown_in_order(run: Run) -> None:
    assert ids(seen(run, "seen")) == list(range(31, 51))
    assert ids(seen(run, "Order Seen", "--limit", "3")) == [48, 49, 50]
    assert ids(seen(run, "Order Paid")) == [10, 20, 30, 40, 50]
    assert ids(seen(run, "Order Paid", "Order Seen", "--limit", "3")) == [49, 50, 50]
    assert len(seen(run, "--limit", "1000")) == 55


@pytest.mark.usefixtures("orders")
def test_from_a_point_on_the_first_events_are_shown(run: Run) -> None:
    assert ids(seen(run, "seen", "--from", "2026-01-01T00:00:40Z")) == list(range(40, 51))
    assert ids(seen(run, "seen", "--from", "earliest", "--limit", "2")) == [1, 2]
    told = run("events", "--from", "2020-01-01")
    assert told.exit_code == 3
    assert "The journal does not reach back so far" in told.output


@pytest.mark.usefixtures("orders")
def test_what_is_personal_by_its_name_its_column_or_its_mapping_is_masked(run: Run) -> None:
    [event] = seen(run, "Order Paid", "--limit", "1")
    assert event["event"]["userId"] == "•••"
    assert event["event"]["properties"] == {"order_id": 50, "buyer": "•••", "contact": "•••", "note": "•••"}
    assert event["event"]["context"]["library"] == {"name": "cdc-tracker"}
    assert event["row"]["new"] == {"id": 50, "user_id": "•••", "status": "paid", "amount": 9.50, "email": "•••"}
    [other] = seen(run, "seen", "--limit", "1")
    assert other["event"]["userId"] == "•••"  # made of a column of which another mapping makes a personal value
    assert "example.com" not in run("events").output


def test_json_in_a_column_is_searched_for_personal_values(run: Run, journal: Journal) -> None:
    values = [
        '{"plan": "pro", "customer": {"email": "b@example.com", "id": 7}}',
        "[not json] but b@example.org",
        *(value for value in VALUES.values()),
    ]
    journal.append(segments([Commit(at(10), [Order(number, status=value) for number, value in enumerate(values)])]))
    found = [each["row"]["new"]["status"] for each in seen(run, "seen", "--limit", "100")]
    assert json.loads(found[0]) == {"plan": "pro", "customer": {"email": "•••", "id": 7}}
    assert found[1] == values[1]
    assert found[4] == "•••", "what Python cannot search is masked as a whole"


def test_a_property_that_is_made_of_a_personal_member_of_json_is_masked(config: Config, place: Path) -> None:
    (place / "mappings" / "orders.yml").write_text(MEMBERS)
    personal = Personal(load_mappings(config).all)
    assert [name for name in "abcd" if personal.hides("Order Seen", f"properties.{name}")] == ["a", "b", "c"]


@pytest.mark.usefixtures("orders")
def test_the_row_stands_beside_the_event_and_a_rejection_says_why(run: Run, journal: Journal) -> None:
    text = run("events", "Order Paid", "--limit", "1").output
    assert 'status = "paid"' in text
    assert "properties.order_id = 50" in text
    journal.append(segments([*[Commit(at(1))] * 60, Commit(at(99), [Order(101)])])[-1:])
    [rejected] = seen(run, "Order Paid", "--limit", "1")
    assert (rejected["rejection"]["reason"], rejected["rejection"]["field"]) == ("above_maximum", "properties.order_id")
    assert "✗ Order Paid: above_maximum" in run("events", "Order Paid", "--limit", "1").output


def test_no_hostile_value_reaches_the_terminal(run: Run, journal: Journal) -> None:
    rows = [Order(number, status=text) for number, text in enumerate(TEXTS.values()) if "\0" not in text]
    journal.append(segments([Commit(at(10), rows)]))
    told = run("events", "seen", "--limit", "100").output
    assert told == printable(told)
    assert max(map(len, told.splitlines())) < 300
    assert [each["row"]["new"]["status"] for each in seen(run, "seen", "--limit", "100")] == [row.status for row in rows]


def test_an_empty_journal_and_a_wrong_name_are_told(run: Run, journal: Journal) -> None:
    assert "The journal is empty." in run("events").output
    assert "The journal is empty." in run("events", "--from", "earliest").output
    told = run("events", "Order Payd")
    assert (told.exit_code, "did you mean 'Order Paid'?" in told.output) == (2, True)
    journal.append(segments([Commit(at(1), [Order(1, status="new")])]))
    assert "The journal has no such event." in run("events", "Order Paid").output


def test_following_goes_on_with_what_comes_and_tells_of_a_gap(config: Config, state: State, journal: Journal) -> None:
    made = segments([Commit(at(number), [Order(number)]) for number in range(1, 60)])
    journal.append(made[:2])
    feed = Feed(config, state, journal, ["seen"])
    following = feed.after(START, follow=True)
    assert [next(following).new[0].json for _ in range(2)] == ["1", "2"]
    journal.append(made[2:3])
    assert next(following).new[0].json == "3"
    journal.append(made[3:])
    journal.trim(age_s=0, size=0, keep_after=made[50].last)
    assert next(following).new[0].json == "52"
    assert feed.gaps == [made[51].first.before]


def test_a_journal_that_is_trimmed_between_two_reads_leaves_a_gap_that_is_told(
    config: Config, state: State, journal: Journal
) -> None:
    made = segments([Commit(at(number), [Order(number)]) for number in range(1, 60)])
    journal.append(made)
    feed = Feed(config, state, journal, ["seen"])
    following = feed.since(EARLIEST)
    first = next(following)
    assert (first.new[0].json, feed.gaps) == ("1", [])
    journal.trim(age_s=0, size=0, keep_after=made[10].last)
    assert [next(following).new[0].json for _ in range(20)] == [str(number) for number in range(2, 22)]
    assert feed.gaps == [], "what was trimmed had been read"
    journal.trim(age_s=0, size=0, keep_after=made[40].last)
    rest = [each.new[0].json for each in following]
    assert rest[-1] == "59"
    assert len(rest) < 38
    assert feed.gaps != []
    assert isinstance(feed.end, Position)
