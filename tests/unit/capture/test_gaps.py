"""What a destination lacks where slot or journal were lost, and how that is asked of a table."""

from __future__ import annotations

import pytest

from cdc_tracker.capture.gaps import Missing, reached, window
from cdc_tracker.cli.repair import command
from cdc_tracker.model import START, Position
from cdc_tracker.state import SourceRecord

RECORD = SourceRecord("main", "77", "shop", "s", "pgoutput", "", 1, 1000, confirmed_lsn=6000, timeline=1, journaled_lsn=5000)
GAP = Missing("mixpanel", Position(6000, -1), 1_790_000_000_400_000, 9000, 1_790_003_600_000_001)


@pytest.mark.parametrize(
    ("journal_end", "checkpoint", "have"),
    [
        (Position(5000, -1), Position(2000, 3), Position(6000, -1)),  # the journal is whole, and was confirmed past while idle
        (Position(7000, -1), Position(2000, 3), Position(7000, -1)),  # … or not confirmed yet
        (START, Position(2000, 3), Position(2000, 3)),  # lost with what only it had
        (Position(3000, -1), Position(2000, 3), Position(3000, -1)),  # an old copy
        (START, Position(5000, -1), Position(6000, -1)),  # lost when everything was delivered
    ],
)
def test_a_destination_has_what_it_dealt_with_and_what_the_journal_still_holds(
    journal_end: Position, checkpoint: Position, have: Position
) -> None:
    assert reached(RECORD, journal_end, checkpoint) == have


def test_a_gap_is_asked_for_in_whole_seconds_and_never_less_than_it_is() -> None:
    since, upto = window(GAP)
    assert since == 1_789_999_940_000_000  # a minute before
    assert upto == 1_790_003_601_000_000
    assert window(GAP._replace(since_time=0))[0] is None


@pytest.mark.parametrize(
    ("event", "config", "written"),
    [
        ("Order Paid", "", 'cdc-tracker backfill "Order Paid" --destination mixpanel'),
        ("a$b", "", "cdc-tracker backfill 'a$b' --destination mixpanel"),
        ("Paid", "/etc/my tracker.yml", "cdc-tracker --config '/etc/my tracker.yml' backfill \"Paid\" --destination mixpanel"),
    ],
)
def test_the_command_is_what_a_shell_takes(event: str, config: str, written: str) -> None:
    assert command(event, GAP, config) == f"{written} --from 2026-09-21T14:12:20Z --to 2026-09-21T15:13:21Z"
    assert " --from " not in command(event, GAP._replace(since_time=0), config)
