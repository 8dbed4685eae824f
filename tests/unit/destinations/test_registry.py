"""Destination types by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_tracker.destinations.jsonl import JsonlDestination
from cdc_tracker.destinations.registry import load, names
from cdc_tracker.errors import ConfigError


def test_ours_are_there() -> None:
    assert set(names()) >= {"jsonl", "memory", "segment", "sql", "stdout", "webhook"}
    assert load("jsonl") is JsonlDestination


@pytest.mark.parametrize("name", names())
def test_each_says_what_it_is(name: str) -> None:
    made = load(name)
    assert made.Settings.model_fields["type"].default == name
    assert made.guarantee in ("exactly once", "once within the vendor's window", "at least once")
    assert made.duplicate_handling


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no destination type `segmnt`; did you mean 'segment'") as caught:
        load("segmnt")
    assert "jsonl, kafka, memory" in caught.value.hint
    with pytest.raises(ConfigError, match=r"no destination type `zzz`$"):
        load("zzz")


def test_a_type_whose_package_is_broken_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as installed, with an entry point to a module that does not exist."""
    _install(tmp_path, "broken = no_such_module:Thing")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="`broken` cannot be loaded: No module named 'no_such_module'") as caught:
        load("broken")
    assert "some-vendor" in caught.value.hint


def test_a_missing_client_is_named_with_the_extra_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "broken = no_such_module:Thing", "Provides-Extra: broken\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="`broken` cannot be loaded: No module named 'no_such_module'") as caught:
        load("broken")
    assert caught.value.hint == "pip install 'some-vendor[broken]'"


def test_a_type_that_two_packages_declare_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "jsonl = elsewhere:Thing")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"`jsonl` is declared twice: by cdc-tracker .* and some-vendor"):
        load("jsonl")


def _install(folder: Path, entry_point: str, more: str = "") -> None:
    info = folder / "some_vendor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-vendor\nVersion: 1.0\n" + more)
    (info / "entry_points.txt").write_text(f"[cdc_tracker.destinations]\n{entry_point}\n")
