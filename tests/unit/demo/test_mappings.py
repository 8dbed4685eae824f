"""The example mappings are what analysts copy from: each shows an example, and every example holds."""

from __future__ import annotations

from cdc_tracker.demo.folder import mappings
from cdc_tracker.mapping import load, run_examples
from cdc_tracker.sources.postgres.values import codec


def test_every_mapping_shows_an_example_and_says_what_it_is() -> None:
    for mapping in load([mappings()]).all:
        assert mapping.examples, mapping.key
        assert mapping.description, mapping.key


def test_every_example_holds() -> None:
    assert [str(result) for result in run_examples(load([mappings()]), codec) if not result.passed] == []
