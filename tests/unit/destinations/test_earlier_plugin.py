"""The names of the first published plugin API work: a plugin that uses them is loaded, configured, sent to and described."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination, Requirements
from cdc_tracker.destinations.registry import described, dry, load
from cdc_tracker.destinations.segment import SegmentDestination
from cdc_tracker.destinations.stdout import StdoutDestination
from cdc_tracker.model import Batch, Event, Outcome, Position
from tests.vendors.earlier_plugin import EarlierDestination, installed


def events(*mappings: str) -> list[Event]:
    return [Event(f"id-{n}", "track", b'{"n":%d}' % n, mapping, Position(100, n), 0) for n, mapping in enumerate(mappings)]


def test_it_is_loaded_and_says_what_it_does_with_duplicates(tmp_path: Path) -> None:
    with installed(tmp_path):
        kind = load("earlier")
        settings = kind.Settings.model_validate({"type": "earlier", "path": "out"})
        assert described(settings) is kind
    assert kind.duplicate_handling == EarlierDestination.repeats == dry(kind).duplicate_handling
    assert settings.requirements == Requirements(row_key=True)


def test_it_is_sent_to_as_any_other(tmp_path: Path) -> None:
    settings = EarlierDestination.Settings.model_validate({"type": "earlier", "path": "out"})
    plugin = EarlierDestination("x", cast("Any", settings), tmp_path)
    batch = Batch(events("m", "unwanted", "m"), Position(100, 2), "job 1 at 3")
    receipts = send(cast("Destination", plugin), batch, stop=lambda: False, on_trouble=lambda trouble: None)
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED]
    assert receipts[1].reason == "refused"
    assert (tmp_path / "out").read_text() == '{"n":0}\n{"n":2}\n'
    assert plugin.asides == ["job 1 at 3 0-0", "job 1 at 3 2-2"]


def test_a_batch_has_both_names() -> None:
    batch = Batch([], Position(1, 0), aside="letter 7", history=True)
    assert (batch.out_of_band, batch.aside, batch.history) == ("letter 7", "letter 7", True)
    assert batch == Batch([], Position(1, 0), out_of_band="letter 7", history=True) == Batch([], Position(1, 0), "letter 7", True)
    renamed: Any = {"aside": "letter 8"}
    assert replace(batch, **renamed).out_of_band == replace(batch, out_of_band="letter 8").aside == "letter 8"
    assert replace(batch, upto=Position(2, 0)).aside == "letter 7"


@pytest.mark.parametrize("base", [SegmentDestination, StdoutDestination])
def test_the_declaration_nearest_to_the_class_counts(base: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Derived(base):  # type: ignore[misc]  # of a class that declares the present name
        repeats: ClassVar[str] = "keeps it as the plugin says"

    with installed(tmp_path):
        monkeypatch.setattr("tests.vendors.earlier_plugin.EarlierDestination", Derived)
        assert load("earlier").duplicate_handling == "keeps it as the plugin says"
    assert base.duplicate_handling != Derived.repeats
