"""Dead letters, whatever database holds them."""

from __future__ import annotations

import threading
from dataclasses import replace

from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import LedgerRow, Outcomes, Selection, State
from tests.unit.state.samples import ALL, OpenedStore, letter, rejected


class DeadLetterSuite(OpenedStore):
    def test_a_dead_letter_comes_back_with_all_it_had(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(rejected(1), [letter(140, 2)]))
        (listed,) = state.dead_letters.page("main")
        found = state.dead_letters.get(listed.id)
        assert found is not None
        assert found == replace(letter(140, 2), id=listed.id, created_at=found.created_at)
        assert found.created_at > 0
        assert found.hour == 3
        assert listed == replace(found, segment=b"")
        assert state.dead_letters.get(listed.id + 1) is None

    def test_dead_letters_are_listed_in_pages_and_by_what_they_are(self, state: State) -> None:
        letters = [letter(140 + number, mapping="ab"[number % 2]) for number in range(25)]
        state.checkpoints.commit("main", "jsonl", Position(200, 0), Outcomes({}, letters))
        pages, after = [], 0
        while page := state.dead_letters.page("main", limit=10, after_id=after):
            pages.append([found.position.commit_lsn for found in page])
            after = page[-1].id
        assert pages == [list(range(140, 150)), list(range(150, 160)), list(range(160, 165))]
        assert len(state.dead_letters.page("main", mapping="b")) == 12
        assert len(state.dead_letters.page("main", destination="jsonl", state="parked", reason="type_mismatch")) == 25
        for wrong in ({"destination": "x"}, {"reason": "x"}, {"mapping": "x"}):
            assert state.dead_letters.page("main", **wrong) == []  # type: ignore[arg-type]  # any of the filters
        assert state.dead_letters.page("main", state="queued") == []
        assert state.dead_letters.page("other") == []

    def test_thousands_of_dead_letters_are_parked_queued_and_settled(self, state: State) -> None:
        state.checkpoints.commit(
            "main", "jsonl", Position(9000, 0), Outcomes(rejected(3000), [letter(200, number) for number in range(3000)])
        )
        assert state.dead_letters.queue("main", ALL) == 3000
        assert self.ledger_row(state).pending == 3000
        ids = [found.id for found in state.dead_letters.queued("main", "jsonl", 5000)]
        state.checkpoints.commit(
            "main", "jsonl", Position(9000, 0), Outcomes({(3, "Order Paid", "delivered"): 3000}, settled=ids)
        )
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 3000, 3000, 0, 0, 0, 0)
        assert state.dead_letters.page("main") == []

    def test_parking_the_same_rejection_again_keeps_one_letter_with_its_id_and_attempts(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(rejected(1), [letter(140)]))
        (first,) = state.dead_letters.page("main")
        state.dead_letters.queue("main", ALL)
        state.dead_letters.finish_retry(
            "main", "jsonl", {}, {first.id: Rejection("refused", "Order Paid", Position(140, 0), 0)}, {}
        )
        again = replace(letter(140, counted=False), reason="required", detail="is missing", segment=b"new")
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes({(3, "Order Paid", "replayed"): 1}, [again]))
        (found,) = state.dead_letters.page("main")
        assert (found.id, found.attempts, found.reason, found.detail) == (first.id, 1, "required", "is missing")
        assert (found.state, found.counted, found.created_at) == ("parked", True, first.created_at)
        full = state.dead_letters.get(found.id)
        assert full is not None
        assert full.segment == b"new"

    def test_letters_of_other_mappings_and_destinations_at_the_same_position_are_others(self, state: State) -> None:
        state.checkpoints.create("main", "webhook", Position(0, -1))
        for destination in ("jsonl", "webhook"):
            state.checkpoints.commit(
                "main", destination, Position(150, 0), Outcomes({}, [letter(140), letter(140, mapping="b"), letter(140, 1)])
            )
        assert len(state.dead_letters.page("main")) == 6
        assert {found.destination for found in state.dead_letters.page("main")} == {"jsonl", "webhook"}

    def test_a_letter_met_again_stays_queued_but_a_discarded_one_is_parked_again(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(rejected(2), [letter(140), letter(141)]))
        one, two = state.dead_letters.page("main")
        state.dead_letters.queue("main", Selection(ids=[one.id]))
        state.dead_letters.discard("main", Selection(ids=[two.id]))
        state.checkpoints.commit(
            "main", "jsonl", Position(150, 0), Outcomes({}, [letter(140, counted=False), letter(141, counted=False)])
        )
        assert [found.state for found in state.dead_letters.page("main")] == ["queued", "parked"]
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (1, 1)

    def test_a_queued_letter_is_pending_until_it_is_delivered(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(rejected(2), [letter(140), letter(141)]))
        assert self.ledger_row(state).pending == 0
        (one, two) = state.dead_letters.page("main")
        assert state.dead_letters.queue("main", Selection(ids=[one.id])) == 1
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (1, 1)
        (queued,) = state.dead_letters.queued("main", "jsonl", 10)
        assert (queued.id, queued.segment, queued.state) == (one.id, b"segment of 140", "queued")
        state.checkpoints.commit(
            "main", "jsonl", Position(150, 0), Outcomes({(queued.hour, queued.mapping, "delivered"): 1}, settled=[queued.id])
        )
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 2, 1, 0, 1, 0, 0)
        assert [found.id for found in state.dead_letters.page("main")] == [two.id]

    def test_a_queued_letter_that_is_rejected_again_is_parked_with_one_more_attempt(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(rejected(1), [letter(140)]))
        state.dead_letters.queue("main", ALL)
        (queued,) = state.dead_letters.queued("main", "jsonl", 10)
        again = Rejection(
            "enum", "Order Paid", Position(140, 0), 0, field="properties.plan", value_type="int", detail="not a plan"
        )
        state.dead_letters.finish_retry("main", "jsonl", {}, {queued.id: again}, {})
        state.dead_letters.finish_retry("main", "jsonl", {}, {queued.id: again}, {})  # not queued any more: nothing happens
        (found,) = state.dead_letters.page("main")
        assert (found.state, found.attempts, found.reason, found.field) == ("parked", 1, "enum", "properties.plan")
        assert found.event_id == "e-1"
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 1, 0, 0, 1, 0, 0)
        assert state.dead_letters.queued("main", "jsonl", 10) == []

    def test_a_discarded_letter_stays_rejected_and_can_be_queued_by_its_id_only(self, state: State) -> None:
        state.checkpoints.commit(
            "main", "jsonl", Position(150, 0), Outcomes(rejected(3), [letter(140), letter(141), letter(142)])
        )
        state.dead_letters.queue("main", Selection(ids=[state.dead_letters.page("main")[0].id]))
        assert state.dead_letters.discard("main", Selection(reason="type_mismatch")) == 3
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (3, 0)
        assert state.dead_letters.count("main") == {}
        assert state.dead_letters.queue("main", ALL) == 0
        assert state.dead_letters.queue("main", Selection(ids=[state.dead_letters.page("main")[0].id])) == 1
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (2, 1)

    def test_a_letter_that_was_delivered_while_a_person_discarded_it_is_not_counted_twice(self, state: State) -> None:
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(rejected(1), [letter(140)]))
        state.dead_letters.queue("main", ALL)
        (queued,) = state.dead_letters.queued("main", "jsonl", 10)
        state.dead_letters.discard("main", ALL)
        state.checkpoints.commit(
            "main", "jsonl", Position(150, 0), Outcomes({(3, "Order Paid", "delivered"): 1}, settled=[queued.id])
        )
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 1, 1, 0, 0, 0, 0)

    def test_a_letter_met_only_on_a_replay_leaves_the_ledger_as_it_is(self, state: State) -> None:
        counts = {(3, "Order Paid", "matched"): 1, (3, "Order Paid", "delivered"): 1}
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(counts))
        before = self.ledger_row(state)
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes({}, [letter(140, counted=False)]))
        state.dead_letters.queue("main", ALL)
        (queued,) = state.dead_letters.queued("main", "jsonl", 10)
        assert not queued.counted
        state.dead_letters.finish_retry(
            "main", "jsonl", {}, {queued.id: Rejection("refused", "Order Paid", Position(140, 0), 0)}, {}
        )
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes({}, settled=[queued.id]))
        assert self.ledger_row(state) == before

    def test_settling_what_another_destination_parked_is_without_effect(self, state: State) -> None:
        state.checkpoints.create("main", "webhook", Position(0, -1))
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes(rejected(1), [letter(140)]))
        state.checkpoints.commit(
            "main", "webhook", Position(150, 0), Outcomes({}, settled=[state.dead_letters.page("main")[0].id])
        )
        assert len(state.dead_letters.page("main")) == 1

    def test_queueing_by_destination_mapping_and_reason_takes_only_those(self, state: State) -> None:
        letters = [letter(140), letter(141, mapping="b"), replace(letter(142), reason="enum")]
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes({}, letters))
        assert state.dead_letters.queue("main", Selection(destination="elsewhere")) == 0
        assert state.dead_letters.queue("main", Selection(ids=[])) == 0
        assert state.dead_letters.queue("main", Selection(destination="jsonl", mapping="b")) == 1
        assert state.dead_letters.queue("main", Selection(reason="enum")) == 1
        assert [found.state for found in state.dead_letters.page("main")] == ["parked", "queued", "queued"]

    def test_dead_letters_are_counted_by_destination_and_reason(self, state: State) -> None:
        state.checkpoints.create("main", "webhook", Position(0, -1))
        state.checkpoints.commit("main", "webhook", Position(150, 0), Outcomes({}, [replace(letter(140), reason="refused")]))
        state.checkpoints.commit("main", "jsonl", Position(150, 0), Outcomes({}, [letter(140), letter(141)]))
        state.dead_letters.queue("main", Selection(ids=[state.dead_letters.page("main", destination="jsonl")[0].id]))
        assert state.dead_letters.count("main") == {("jsonl", "type_mismatch"): 2, ("webhook", "refused"): 1}

    def test_two_deliverers_and_a_person_may_write_at_once(self, state: State, url: str) -> None:
        problems: list[BaseException] = []
        state.checkpoints.create("main", "webhook", Position(100, -1))

        def deliver(destination: str) -> None:
            try:
                with State.open(url) as mine:
                    for lsn in range(101, 161):
                        mine.checkpoints.commit("main", destination, Position(lsn, 0), Outcomes(rejected(1), [letter(lsn)]))
                        for queued in mine.dead_letters.queued("main", destination, 5):
                            counts = {(queued.hour, queued.mapping, "delivered"): 1}
                            mine.checkpoints.commit("main", destination, Position(lsn, 0), Outcomes(counts, settled=[queued.id]))
            except BaseException as error:
                problems.append(error)

        deliverers = [threading.Thread(target=deliver, args=[name], daemon=True) for name in ("jsonl", "webhook")]
        for deliverer in deliverers:
            deliverer.start()
        while any(deliverer.is_alive() for deliverer in deliverers):
            state.dead_letters.queue("main", ALL)
        for deliverer in deliverers:
            deliverer.join(60)
        assert problems == []
        for row in state.ledger.rows("main"):
            left = len(state.dead_letters.page("main", destination=row.destination))
            queued = len(state.dead_letters.queued("main", row.destination, 1000))
            assert (row.matched, row.delivered + left, row.pending) == (60, 60, queued)
