"""What stands for a destination in a dry run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_tracker.destinations.jsonl import JsonlDestination
from cdc_tracker.destinations.registry import dry, load, names
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import SUPPRESSED
from tests.vendors.kit import batch, events


@pytest.mark.parametrize("name", names())
def test_it_says_what_the_real_one_does_and_holds_no_checkpoint(name: str) -> None:
    kind = load(name)
    stand_in = dry(kind)
    assert (stand_in.Settings, stand_in.guarantee, stand_in.duplicate_handling) == (
        kind.Settings,
        kind.guarantee,
        kind.duplicate_handling,
    )
    assert (stand_in.dedupe_window, stand_in.age_limit) == (kind.dedupe_window, kind.age_limit)
    assert not (hasattr(stand_in, "position") or hasattr(stand_in, "rewind"))


def test_it_opens_and_sends_nothing_and_its_probe_reaches_the_real_one(tmp_path: Path) -> None:
    settings = JsonlDestination.Settings.model_validate({"type": "jsonl", "path": "out/", "dry_run": True})
    stand_in = dry(JsonlDestination)("events", settings, tmp_path)
    assert stand_in.deliver(batch(events(3))) == [SUPPRESSED] * 3
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(CdcTrackerError):
        stand_in.probe()
    (tmp_path / "out").unlink()
    stand_in.probe()
    stand_in.close()
