from __future__ import annotations

import json
import time

import pytest

from cdc_tracker.model import Position
from cdc_tracker.state import Outcomes, State
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
