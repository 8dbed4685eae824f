from __future__ import annotations

import json

import pytest

from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import CaptureReport, DeadLetter, DeliveryReport, Outcomes, State
from tests.unit.cli.conftest import Run

AT = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


def parked(state: State, destination: str, mapping: str, reason: str, count: int, detail: str = "must be a number") -> None:
    """Park `count` letters as a deliverer does."""
    state.checkpoints.create("main", destination, Position(100, -1))
    begin = state.checkpoints.get("main", destination)
    assert begin is not None
    first = begin.position.commit_lsn
    letters = [
        DeadLetter.of(
            "main",
            destination,
            Rejection(reason, mapping, Position(first + n, 0), AT, "properties.revenue", "string", detail),
            b"segment",
        )
        for n in range(count)
    ]
    counts = {(AT // 3_600_000_000, mapping, outcome): count for outcome in ("matched", "rejected")}
    state.checkpoints.commit("main", destination, Position(first + count, -1), Outcomes(counts, letters))


@pytest.fixture(autouse=True)
def _letters(state: State) -> None:
    parked(state, "events", "Order Paid", "type_mismatch", 2)
    parked(state, "hook", "Order Paid", "refused", 1)


def test_dead_letters_are_listed_with_reason_and_field(run: Run) -> None:
    told = run("dead-letters", "list")
    assert told.exit_code == 0
    for text in ("type_mismatch", "properties.revenue", "must be a number", "Order Paid", "hook", "refused"):
        assert text in told.output


HOSTILE = "\x1b]0;owned\x07 \x9b2J \u202e\u2028 Gr\u00f6\u00dfe\nid 7 [/red]"
"""Sets a terminal's title, clears it, turns the direction of writing, and begins a line."""


@pytest.fixture
def _hostile(state: State) -> None:
    parked(state, "events", HOSTILE, HOSTILE, 1, detail=HOSTILE)
    state.reports.save("main", "deliver:events", 1, "blocked", DeliveryReport(trouble=HOSTILE, hint=HOSTILE))
    state.reports.save("main", "capture", 1, "failed", CaptureReport(trouble=HOSTILE, hint=HOSTILE))


@pytest.mark.usefixtures("_hostile")
@pytest.mark.parametrize(
    "command",
    [
        "dead-letters list",
        "dead-letters list --json",
        "dead-letters show 4",
        "dead-letters show 4 --json",
        "status",
        "status --json",
        "ledger --by mapping --since 2025-12-31",
        "ledger --by mapping --since 2025-12-31 --json",
    ],
)
def test_nothing_that_came_from_outside_is_obeyed_by_the_terminal(run: Run, command: str) -> None:
    told = run(*command.split())
    assert "owned" in told.output or command == "status --json"
    assert not {found for found in told.output if not (found.isprintable() or found == "\n")}
    if "--json" in command:
        json.loads(told.output)
    if "letters list --json" in command:
        assert json.loads(told.output)[3]["detail"] == HOSTILE
    if command == "dead-letters show 4":
        assert [line.split()[0] for line in told.output.splitlines()].count("id") == 1


def test_filters_narrow_the_list(run: Run) -> None:
    def ids(*arguments: str) -> list[int]:
        return [each["id"] for each in json.loads(run("dead-letters", "list", "--json", *arguments).output)]

    assert ids() == [1, 2, 3]
    assert ids("--destination", "hook") == [3]
    assert ids("--reason", "type_mismatch") == [1, 2]
    assert ids("--mapping", "Order Refunded") == []
    assert ids("--state", "queued") == []
    assert ids("--limit", "1") == [1]


def test_a_list_that_was_cut_says_so(run: Run) -> None:
    assert "more than 2" in run("dead-letters", "list", "--limit", "2").output
    assert "more than" not in run("dead-letters", "list", "--limit", "3").output


def test_one_is_shown_with_everything_about_it(run: Run) -> None:
    told = json.loads(run("dead-letters", "show", "1", "--json").output)
    assert (told["destination"], told["position"], told["state"]) == ("events", "0/64+0", "parked")
    assert "type_mismatch" in run("dead-letters", "show", "1").output


def test_one_that_is_not_there_is_told(run: Run) -> None:
    told = run("dead-letters", "show", "99")
    assert told.exit_code == 2
    assert "no dead letter 99" in told.output


def test_retry_queues_those_chosen(run: Run, state: State) -> None:
    assert "2 dead letters queued" in run("dead-letters", "retry", "--reason", "type_mismatch").output
    assert [letter.id for letter in state.dead_letters.queued("main", "events", 10)] == [1, 2]
    assert state.dead_letters.queued("main", "hook", 10) == []


def test_retry_by_number(run: Run, state: State) -> None:
    assert json.loads(run("dead-letters", "retry", "3", "--json").output) == {"queued": 1}
    assert [letter.id for letter in state.dead_letters.queued("main", "hook", 10)] == [3]


@pytest.mark.parametrize("command", ["retry", "discard"])
def test_nothing_is_chosen_by_leaving_everything_out(run: Run, state: State, command: str) -> None:
    told = run("dead-letters", command)
    assert told.exit_code == 2
    assert "--all" in told.output
    assert run("dead-letters", command, "1", "--all").exit_code == 2
    assert {letter.state for letter in state.dead_letters.page("main")} == {"parked"}


def test_discard_asks_first(run: Run, state: State) -> None:
    told = run("dead-letters", "discard", "--destination", "events", typed="n\n")
    assert told.exit_code == 1
    assert {letter.state for letter in state.dead_letters.page("main")} == {"parked"}
    told = run("dead-letters", "discard", "--destination", "events", typed="y\n")
    assert told.exit_code == 0
    assert "2 dead letters discarded" in told.output
    assert [letter.id for letter in state.dead_letters.page("main", state="discarded")] == [1, 2]


def test_discard_with_yes_does_not_ask(run: Run, state: State) -> None:
    assert json.loads(run("dead-letters", "discard", "--all", "--yes", "--json").output) == {"discarded": 3}
    assert {letter.state for letter in state.dead_letters.page("main")} == {"discarded"}
