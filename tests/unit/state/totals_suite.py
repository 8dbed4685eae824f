"""Running totals beside the ledger, whatever database holds them."""

from __future__ import annotations

from collections import Counter

from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import Outcomes, Selection, State
from cdc_tracker.state.tables import OUTCOMES
from tests.unit.state.samples import ALL, OpenedStore, letter, rejected


def added_up(state: State) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in state.ledger.rows("main", "jsonl"):
        found.update({outcome: getattr(row, outcome) for outcome in OUTCOMES})
    return found


class TotalsSuite(OpenedStore):
    def test_the_totals_are_what_the_ledger_adds_up_to(self, state: State) -> None:
        assert state.ledger.totals("main") == {}
        for lsn in range(101, 106):
            hour = lsn - 100
            counts = {(hour, "a", "matched"): 2, (hour, "a", "delivered"): 1, (hour + 1, "b", "suppressed"): 3}
            state.checkpoints.commit("main", "jsonl", Position(lsn, 0), Outcomes(counts))
        totals = state.ledger.totals("main")["jsonl"]
        assert totals.now == totals.ever == added_up(state)
        assert (totals.now["matched"], totals.now["suppressed"]) == (10, 15)
        assert state.ledger.delivered_since("main", 4) == {"jsonl": 2}
        assert not state.ledger.delivered_since("main", 100) and not state.ledger.totals("other")

    def test_what_has_happened_only_grows_while_dead_letters_are_retried_parked_again_and_discarded(self, state: State) -> None:
        seen = []

        def look() -> None:
            totals = state.ledger.totals("main")["jsonl"]
            assert totals.now == added_up(state)
            seen.append((totals.now["rejected"], totals.ever["rejected"]))

        state.checkpoints.commit(
            "main", "jsonl", Position(120, 0), Outcomes(rejected(3), [letter(lsn) for lsn in (110, 111, 112)])
        )
        look()
        state.dead_letters.queue("main", ALL)
        look()
        first, second, third = (each.id for each in state.dead_letters.page("main"))
        state.dead_letters.finish_retry("main", "jsonl", {}, {first: Rejection("refused", "Order Paid", Position(110, 0), 0)}, {})
        look()
        state.dead_letters.discard("main", Selection([second]))
        look()
        state.checkpoints.commit(
            "main", "jsonl", Position(121, 0), Outcomes({(3, "Order Paid", "delivered"): 1}, settled=[third])
        )
        look()
        assert seen == [(3, 3), (0, 3), (1, 4), (2, 4), (2, 4)]

    def test_totals_go_with_their_source(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(101, 0), Outcomes(rejected(1)))
        state.forget("main")
        assert state.ledger.totals("main") == {}
