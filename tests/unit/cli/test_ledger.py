from __future__ import annotations

import json
import time

import pytest

from cdc_tracker.config.config import Config
from cdc_tracker.model import Position
from cdc_tracker.monitoring import Observer
from cdc_tracker.monitoring.metrics import exposition
from cdc_tracker.state import Outcomes, State
from cdc_tracker.worker.assemble import open_journal
from tests.unit.cli.conftest import Run

NOW = int(time.time()) // 3600


@pytest.fixture(autouse=True)
def _counts(state: State) -> None:
    state.checkpoints.create("main", "events", Position(100, -1))
    state.checkpoints.create("main", "hook", Position(100, -1))
    state.checkpoints.commit(
        "main",
        "events",
        Position(200, -1),
        Outcomes(
            {
                (NOW, "Order Paid", "matched"): 1500,
                (NOW, "Order Paid", "delivered"): 1490,
                (NOW, "Order Paid", "rejected"): 3,
                (NOW - 1, "Order Paid", "matched"): 1,
                (NOW - 1, "Order Paid", "delivered"): 1,
                (NOW - 100, "Old One", "matched"): 1,
                (NOW - 100, "Old One", "delivered"): 1,
            }
        ),
    )
    state.checkpoints.commit(
        "main", "hook", Position(200, -1), Outcomes({(NOW, "Order Paid", "matched"): 5, (NOW, "Order Paid", "assumed"): 5})
    )


def rows(run: Run, *arguments: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("ledger", "--json", *arguments).output)
    return found


def test_counts_are_summed_by_mapping_and_destination(run: Run) -> None:
    [events, hook] = rows(run)
    assert (events["mapping"], events["destination"], events["matched"], events["delivered"]) == (
        "Order Paid",
        "events",
        1501,
        1491,
    )
    assert (events["rejected"], events["pending"]) == (3, 7)
    assert (hook["destination"], hook["assumed"], hook["pending"]) == ("hook", 5, 0)


def test_counts_are_summed_by_hour_or_destination(run: Run) -> None:
    assert [(row["destination"], row["matched"]) for row in rows(run, "--by", "destination")] == [("events", 1501), ("hook", 5)]
    assert [row["matched"] for row in rows(run, "--by", "hour", "--destination", "events")] == [1, 1500]


def test_since_and_filters_narrow_it(run: Run) -> None:
    assert [row["mapping"] for row in rows(run, "--since", "7d", "--destination", "events")] == ["Old One", "Order Paid"]
    assert [row["destination"] for row in rows(run, "--destination", "hook")] == ["hook"]
    assert rows(run, "--mapping", "Old One") == []


def test_people_get_a_table(run: Run) -> None:
    told = run("ledger")
    assert told.exit_code == 0
    assert "1,491" in told.output
    assert "No events since" in run("ledger", "--mapping", "Old One").output


def test_a_time_that_is_none_is_refused(run: Run) -> None:
    assert run("ledger", "--since", "soon").exit_code == 2


def test_a_mapping_that_has_not_matched_has_a_row_and_is_told_since_when(run: Run, state: State) -> None:
    for name in ("events", "hook", "removed"):
        state.mappings.load("main", name, ["Order Paid", "Order Refunded", "Old One"])
    state.mappings.load("main", "hook", ["Order Paid", "Order Refunded"])
    for name, key in (("events", "Order Paid"), ("events", "Old One"), ("hook", "Order Paid")):
        state.checkpoints.commit(
            "main", name, Position(300, -1), Outcomes({(NOW, key, "matched"): 1, (NOW, key, "delivered"): 1})
        )
    found = [each for each in rows(run) if each["mapping"] != "Old One"]
    assert [(each["mapping"], each["destination"], each["matched"]) for each in found] == [
        ("Order Paid", "events", 1502),
        ("Order Paid", "hook", 6),
        ("Order Refunded", "events", 0),
        ("Order Refunded", "hook", 0),
    ]
    assert [set(found[0]) ^ set(found[2]), found[2]["pending"]] == [{"unmatched_since"}, 0]
    told = run("ledger").output
    assert f"Order Refunded: no change has matched since {found[2]['unmatched_since']}, when it was first loaded (events)" in told
    assert len(rows(run, "--destination", "hook")) == 2
    assert [each["mapping"] for each in rows(run, "--mapping", "Order Refunded")] == ["Order Refunded"] * 2
    assert len(rows(run, "--by", "destination")) == 2


def test_status_names_the_mappings_that_no_destination_has_matched(run: Run, state: State, config: Config) -> None:
    state.mappings.load("main", "events", ["Order Paid", "Order\x1b[31m Refunded"])
    state.mappings.load("main", "hook", ["Order Paid", "Order\x1b[31m Refunded", "Late"])
    state.checkpoints.commit("main", "hook", Position(300, -1), Outcomes({(NOW, "Order Paid", "matched"): 1}))
    told = run("status").output
    assert "Order\\u001b[31m Refunded: no change has matched since" in told
    assert "Late: no change has matched since" in told
    assert "Order Paid: no change" not in told
    assert "`cdc-tracker explain EVENT`" in told
    assert list(json.loads(run("status", "--json").stdout)["never_matched"]) == ["Late", "Order\x1b[31m Refunded"]
    state.mappings.load("main", "hook", [f"event {number}" for number in range(30)])
    assert "… and 22 mappings more: `cdc-tracker ledger` lists them" in run("status").output
    with open_journal(config) as journal:
        observer = Observer(state, journal, "main", list(config.destinations), config.data)
        assert b'cdc_tracker_unmatched_mappings{destination="hook"} 30.0' in exposition(observer)
