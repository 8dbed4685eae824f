"""Mappings in force, whatever database holds their records."""

from __future__ import annotations

import pytest

from cdc_tracker.errors import Fenced
from cdc_tracker.model import Position
from cdc_tracker.state import Outcomes, State
from tests.unit.state.samples import OpenedStore


def matched(state: State) -> dict[tuple[str, str], bool]:
    return {(each.destination, each.mapping): each.matched for each in state.mappings.all("main")}


class MappingSuite(OpenedStore):
    def test_a_mapping_has_matched_once_the_ledger_counts_it_for_the_destination(self, state: State) -> None:
        state.mappings.load("main", "jsonl", ["a", "b"])
        state.checkpoints.create("main", "hook", Position(0, -1))
        state.mappings.load("main", "hook", ["a"])
        assert matched(state) == {("hook", "a"): False, ("jsonl", "a"): False, ("jsonl", "b"): False}
        state.checkpoints.commit("main", "jsonl", Position(101, 0), Outcomes({(1, "a", "matched"): 2, (1, "a", "rejected"): 2}))
        assert matched(state) == {("hook", "a"): False, ("jsonl", "a"): True, ("jsonl", "b"): False}
        state.checkpoints.commit("main", "hook", Position(201, 0), Outcomes({(1, "a", "replayed"): 1}))
        assert matched(state)["hook", "a"]
        assert state.mappings.all("other") == []

    def test_loading_again_keeps_since_when_it_is_in_force_and_ends_what_is_not_named(self, state: State) -> None:
        state.mappings.load("main", "jsonl", ["a", "b"])
        before = {each.mapping: each.loaded_at for each in state.mappings.all("main")}
        state.mappings.load("main", "jsonl", ["b", "renamed"])
        after = {each.mapping: each.loaded_at for each in state.mappings.all("main")}
        assert after.keys() == {"b", "renamed"}
        assert after["b"] == before["b"]
        assert after["renamed"] > before["a"]
        state.mappings.load("main", "jsonl", [])
        assert state.mappings.all("main") == []

    def test_one_that_was_removed_and_comes_back_has_not_matched_until_it_does_again(self, state: State) -> None:
        state.mappings.load("main", "jsonl", ["a"])
        state.checkpoints.commit("main", "jsonl", Position(101, 0), Outcomes({(1, "a", "matched"): 2, (1, "a", "delivered"): 2}))
        state.mappings.load("main", "jsonl", [])
        state.mappings.load("main", "jsonl", ["a"])
        assert matched(state) == {("jsonl", "a"): False}
        state.checkpoints.commit("main", "jsonl", Position(102, 0), Outcomes({(1, "a", "matched"): 1, (1, "a", "suppressed"): 1}))
        assert matched(state) == {("jsonl", "a"): True}

    def test_two_thousand_mappings_are_loaded_and_listed(self, state: State) -> None:
        names = [f"mapping {number}" for number in range(2_000)]
        state.mappings.load("main", "jsonl", names)
        state.mappings.load("main", "jsonl", names[1:])
        assert len(state.mappings.all("main")) == 1_999

    def test_they_go_with_their_source(self, state: State) -> None:
        state.mappings.load("main", "jsonl", ["a"])
        state.forget("main")
        assert state.mappings.all("main") == []

    def test_a_delivery_that_was_replaced_records_nothing(self, state: State, url: str) -> None:
        with State.open(url) as other, state.lock("one") as lock, other.lock("two") as second:
            state.claim(lock, "main", "jsonl")
            state.mappings.load("main", "jsonl", ["a"])
            other.claim(second, "main", "jsonl")
            with pytest.raises(Fenced):
                state.mappings.load("main", "jsonl", ["b"])
            assert matched(other) == {("jsonl", "a"): False}
