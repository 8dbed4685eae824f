"""What every state store does, whatever database holds it. A subclass gives the fixture `url`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from cdc_tracker.database import Database
from cdc_tracker.errors import AlreadyRunning, StateMissing, Stop
from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import Checkpoint, DeadLetter, LedgerRow, Selection, SourceRecord, State
from cdc_tracker.state.records import HOUR
from cdc_tracker.state.store import KIND
from cdc_tracker.state.tables import metadata
from tests.unit.state.stores import differences, program

RECORD = SourceRecord(
    name="main",
    system_id="7301234567890123456",
    database="shop",
    slot="cdc_tracker",
    plugin="pgoutput",
    namespace="2f1c7b1e-57a1-5d0c-8a5b-6d2b8f1f0a11",
    epoch=0,
    created_lsn=0x16_B374D848,
    confirmed_lsn=0x16_B374D848,
    timeline=1,
)
ALL = Selection()

OPENER = """
import sys
from cdc_tracker.state import State
print("ready", flush=True)
sys.stdin.readline()
State.open(sys.argv[1]).close()
print("alembic" in sys.modules)
"""
HOLDER = """
import sys
from cdc_tracker.state import State
state = State.open(sys.argv[1])
with state.lock("capture:main"):
    print("held", flush=True)
    sys.stdin.readline()
state.close()
"""
COMMITTER = """
import sys
from cdc_tracker.model import Position
from cdc_tracker.state import State
from tests.unit.state.suite import letter
state = State.open(sys.argv[1])
start = state.checkpoint("main", "jsonl").position.commit_lsn
for lsn in range(start + 1, start + 100000):
    counts = {(3, "Order Paid", "matched"): 1, (3, "Order Paid", "rejected"): 1}
    state.commit("main", "jsonl", Position(lsn, 0), counts, [letter(lsn)])
    print(lsn, flush=True)
"""


def letter(lsn: int, ordinal: int = 0, *, mapping: str = "Order Paid", hour: int = 3, counted: bool = True) -> DeadLetter:
    rejection = Rejection(
        reason="type_mismatch",
        mapping=mapping,
        position=Position(lsn, ordinal),
        committed_at=hour * HOUR + 5,
        field="properties.revenue",
        value_type="str",
        detail="expected a number",
        event_id="e-1",
    )
    return DeadLetter.of("main", "jsonl", rejection, b"segment of %d" % lsn, counted=counted)


def rejected(count: int, mapping: str = "Order Paid", hour: int = 3) -> dict[tuple[int, str, str], int]:
    return {(hour, mapping, "matched"): count, (hour, mapping, "rejected"): count}


class StateSuite:
    @pytest.fixture
    def state(self, url: str) -> Iterator[State]:
        with State.open(url) as opened:
            opened.create_checkpoint("main", "jsonl", Position(100, -1))
            yield opened

    def ledger_row(self, state: State) -> LedgerRow:
        (row,) = state.ledger("main", "jsonl")
        return row

    def test_a_source_is_saved_replaced_and_found_again(self, state: State) -> None:
        assert state.source("main") is None
        state.save_source(RECORD)
        state.save_source(replace(RECORD, name="other", database="crm"))
        assert state.source("main") == RECORD
        changed = replace(RECORD, epoch=1, confirmed_lsn=5, timeline=2)
        state.save_source(changed)
        assert state.source("main") == changed
        assert state.source("other") == replace(RECORD, name="other", database="crm")

    def test_confirmed_is_raised_and_never_lowered(self, state: State) -> None:
        state.save_source(RECORD)
        state.confirm("main", RECORD.confirmed_lsn + 10, 70)
        state.confirm("main", RECORD.confirmed_lsn + 3, 60)
        found = state.source("main")
        assert found is not None
        assert (found.confirmed_lsn, found.journaled_lsn) == (RECORD.confirmed_lsn + 10, 70)

    def test_confirming_for_a_source_that_the_store_does_not_know_stops(self, state: State) -> None:
        with pytest.raises(StateMissing, match="knows no source nobody"):
            state.confirm("nobody", 5, 5)

    def test_a_checkpoint_is_created_once_and_then_left_alone(self, state: State) -> None:
        assert state.checkpoint("main", "webhook") is None
        state.create_checkpoint("main", "webhook", Position(200, 3))
        state.create_checkpoint("main", "webhook", Position(900, 0))
        state.create_checkpoint("other", "webhook", Position(7, 0))
        found = state.checkpoint("main", "webhook")
        assert found == Checkpoint(Position(200, 3), Position(200, 3), None, found.updated_at if found else 0)
        assert {name: point.position for name, point in state.checkpoints("main").items()} == {
            "jsonl": Position(100, -1),
            "webhook": Position(200, 3),
        }

    def test_a_commit_moves_the_checkpoint_and_adds_to_the_ledger(self, state: State) -> None:
        counts = {(3, "Order Paid", "matched"): 5, (3, "Order Paid", "delivered"): 4, (4, "Signed Up", "matched"): 1}
        assert state.commit("main", "jsonl", Position(150, 2), counts) is None
        assert state.commit("main", "jsonl", Position(150, 7), {(3, "Order Paid", "delivered"): 1}) is None
        found = state.checkpoint("main", "jsonl")
        assert found is not None
        assert (found.position, found.high, found.rewind_to) == (Position(150, 7), Position(150, 7), None)
        assert state.ledger("main") == [
            LedgerRow("jsonl", "Order Paid", 3, 5, 5, 0, 0, 0, 0),
            LedgerRow("jsonl", "Signed Up", 4, 1, 0, 0, 0, 0, 0),
        ]
        assert [row.pending for row in state.ledger("main")] == [0, 1]

    def test_the_ledger_is_filtered_by_destination_mapping_and_hour(self, state: State) -> None:
        state.create_checkpoint("main", "webhook", Position(0, -1))
        for destination in ("jsonl", "webhook"):
            for hour in (3, 4):
                state.commit("main", destination, Position(150, 0), {(hour, key, "assumed"): hour for key in ("a", "b")})
        assert len(state.ledger("main")) == 8
        assert [row.hour for row in state.ledger("main", "webhook", "b")] == [3, 4]
        assert state.ledger("main", destination="jsonl", since_hour=4, mapping="a") == [
            LedgerRow("jsonl", "a", 4, 0, 0, 4, 0, 0, 0)
        ]
        assert state.ledger("other") == []

    def test_a_checkpoint_does_not_go_back_by_a_commit_and_nothing_of_it_is_kept(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 2), {})
        for back in (Position(150, 1), Position(149, 9)):
            with pytest.raises(Stop, match="would go back from 0/96\\+2"):
                state.commit("main", "jsonl", back, rejected(1), [letter(140)])
        assert state.ledger("main") == []
        assert state.dead_letters("main") == []

    def test_a_commit_without_a_checkpoint_stops(self, state: State) -> None:
        with pytest.raises(StateMissing, match="no checkpoint of nowhere for the source main"):
            state.commit("main", "nowhere", Position(1, 0), {})

    def test_an_outcome_that_the_ledger_does_not_have_is_refused_and_nothing_is_kept(self, state: State) -> None:
        with pytest.raises(ValueError, match="lost"):
            state.commit("main", "jsonl", Position(150, 0), {(3, "a", "lost"): 1})
        found = state.checkpoint("main", "jsonl")
        assert found is not None
        assert found.position == Position(100, -1)

    def test_a_rewind_is_told_by_commits_until_it_is_applied_and_high_stays(self, state: State) -> None:
        state.commit("main", "jsonl", Position(500, 4), {})
        state.request_rewind("main", "jsonl", Position(200, 1))
        found = state.checkpoint("main", "jsonl")
        assert found is not None
        assert found.rewind_to == Position(200, 1)
        assert state.commit("main", "jsonl", Position(600, 0), {}) == Position(200, 1)
        assert state.apply_rewind("main", "jsonl") == Position(200, 1)
        found = state.checkpoint("main", "jsonl")
        assert found is not None
        assert (found.position, found.high, found.rewind_to) == (Position(200, 1), Position(600, 0), None)
        assert state.commit("main", "jsonl", Position(300, 0), {}) is None
        found = state.checkpoint("main", "jsonl")
        assert found is not None
        assert (found.position, found.high) == (Position(300, 0), Position(600, 0))
        state.commit("main", "jsonl", Position(600, 1), {})
        found = state.checkpoint("main", "jsonl")
        assert found is not None
        assert found.high == Position(600, 1)

    def test_applying_a_rewind_that_nobody_asked_for_changes_nothing(self, state: State) -> None:
        assert state.apply_rewind("main", "jsonl") == Position(100, -1)

    def test_a_rewind_forward_is_refused_because_it_would_skip(self, state: State) -> None:
        with pytest.raises(Stop, match="skip what is between"):
            state.request_rewind("main", "jsonl", Position(100, 0))
        with pytest.raises(StateMissing):
            state.request_rewind("main", "nowhere", Position(1, 0))
        found = state.checkpoint("main", "jsonl")
        assert found is not None
        assert found.rewind_to is None

    def test_a_dead_letter_comes_back_with_all_it_had(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 0), rejected(1), [letter(140, 2)])
        (listed,) = state.dead_letters("main")
        found = state.dead_letter(listed.id)
        assert found is not None
        assert found == replace(letter(140, 2), id=listed.id, created_at=found.created_at)
        assert found.created_at > 0
        assert found.hour == 3
        assert listed == replace(found, segment=b"")
        assert state.dead_letter(listed.id + 1) is None

    def test_dead_letters_are_listed_in_pages_and_by_what_they_are(self, state: State) -> None:
        letters = [letter(140 + number, mapping="ab"[number % 2]) for number in range(25)]
        state.commit("main", "jsonl", Position(200, 0), {}, letters)
        pages, after = [], 0
        while page := state.dead_letters("main", limit=10, after_id=after):
            pages.append([found.position.commit_lsn for found in page])
            after = page[-1].id
        assert pages == [list(range(140, 150)), list(range(150, 160)), list(range(160, 165))]
        assert len(state.dead_letters("main", mapping="b")) == 12
        assert len(state.dead_letters("main", destination="jsonl", state="parked", reason="type_mismatch")) == 25
        for wrong in ({"destination": "x"}, {"reason": "x"}, {"mapping": "x"}):
            assert state.dead_letters("main", **wrong) == []  # type: ignore[arg-type]  # any of the filters
        assert state.dead_letters("main", state="queued") == []
        assert state.dead_letters("other") == []

    def test_thousands_of_dead_letters_are_parked_queued_and_settled(self, state: State) -> None:
        state.commit("main", "jsonl", Position(9000, 0), rejected(3000), [letter(200, number) for number in range(3000)])
        assert state.queue_dead_letters("main", ALL) == 3000
        assert self.ledger_row(state).pending == 3000
        ids = [found.id for found in state.queued("main", "jsonl", 5000)]
        state.commit("main", "jsonl", Position(9000, 0), {(3, "Order Paid", "delivered"): 3000}, settled=ids)
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 3000, 3000, 0, 0, 0, 0)
        assert state.dead_letters("main") == []

    def test_parking_the_same_rejection_again_keeps_one_letter_with_its_id_and_attempts(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 0), rejected(1), [letter(140)])
        (first,) = state.dead_letters("main")
        state.queue_dead_letters("main", ALL)
        state.repark(first.id, Rejection("refused", "Order Paid", Position(140, 0), 0))
        again = replace(letter(140, counted=False), reason="required", detail="is missing", segment=b"new")
        state.commit("main", "jsonl", Position(150, 0), {(3, "Order Paid", "replayed"): 1}, [again])
        (found,) = state.dead_letters("main")
        assert (found.id, found.attempts, found.reason, found.detail) == (first.id, 1, "required", "is missing")
        assert (found.state, found.counted, found.created_at) == ("parked", True, first.created_at)
        full = state.dead_letter(found.id)
        assert full is not None
        assert full.segment == b"new"

    def test_letters_of_other_mappings_and_destinations_at_the_same_position_are_others(self, state: State) -> None:
        state.create_checkpoint("main", "webhook", Position(0, -1))
        for destination in ("jsonl", "webhook"):
            state.commit("main", destination, Position(150, 0), {}, [letter(140), letter(140, mapping="b"), letter(140, 1)])
        assert len(state.dead_letters("main")) == 6
        assert {found.destination for found in state.dead_letters("main")} == {"jsonl", "webhook"}

    def test_a_letter_met_again_stays_queued_but_a_discarded_one_is_parked_again(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 0), rejected(2), [letter(140), letter(141)])
        one, two = state.dead_letters("main")
        state.queue_dead_letters("main", Selection(ids=[one.id]))
        state.discard_dead_letters("main", Selection(ids=[two.id]))
        state.commit("main", "jsonl", Position(150, 0), {}, [letter(140, counted=False), letter(141, counted=False)])
        assert [found.state for found in state.dead_letters("main")] == ["queued", "parked"]
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (1, 1)

    def test_a_queued_letter_is_pending_until_it_is_delivered(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 0), rejected(2), [letter(140), letter(141)])
        assert self.ledger_row(state).pending == 0
        (one, two) = state.dead_letters("main")
        assert state.queue_dead_letters("main", Selection(ids=[one.id])) == 1
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (1, 1)
        (queued,) = state.queued("main", "jsonl", 10)
        assert (queued.id, queued.segment, queued.state) == (one.id, b"segment of 140", "queued")
        state.commit("main", "jsonl", Position(150, 0), {(queued.hour, queued.mapping, "delivered"): 1}, settled=[queued.id])
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 2, 1, 0, 1, 0, 0)
        assert [found.id for found in state.dead_letters("main")] == [two.id]

    def test_a_queued_letter_that_is_rejected_again_is_parked_with_one_more_attempt(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 0), rejected(1), [letter(140)])
        state.queue_dead_letters("main", ALL)
        (queued,) = state.queued("main", "jsonl", 10)
        again = Rejection(
            "enum", "Order Paid", Position(140, 0), 0, field="properties.plan", value_type="int", detail="not a plan"
        )
        state.repark(queued.id, again)
        state.repark(queued.id, again)  # not queued any more: nothing happens
        (found,) = state.dead_letters("main")
        assert (found.state, found.attempts, found.reason, found.field) == ("parked", 1, "enum", "properties.plan")
        assert found.event_id == "e-1"
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 1, 0, 0, 1, 0, 0)
        assert state.queued("main", "jsonl", 10) == []

    def test_a_discarded_letter_stays_rejected_and_can_be_queued_by_its_id_only(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 0), rejected(3), [letter(140), letter(141), letter(142)])
        state.queue_dead_letters("main", Selection(ids=[state.dead_letters("main")[0].id]))
        assert state.discard_dead_letters("main", Selection(reason="type_mismatch")) == 3
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (3, 0)
        assert state.count_dead_letters("main") == {}
        assert state.queue_dead_letters("main", ALL) == 0
        assert state.queue_dead_letters("main", Selection(ids=[state.dead_letters("main")[0].id])) == 1
        assert (self.ledger_row(state).rejected, self.ledger_row(state).pending) == (2, 1)

    def test_a_letter_that_was_delivered_while_a_person_discarded_it_is_not_counted_twice(self, state: State) -> None:
        state.commit("main", "jsonl", Position(150, 0), rejected(1), [letter(140)])
        state.queue_dead_letters("main", ALL)
        (queued,) = state.queued("main", "jsonl", 10)
        state.discard_dead_letters("main", ALL)
        state.commit("main", "jsonl", Position(150, 0), {(3, "Order Paid", "delivered"): 1}, settled=[queued.id])
        assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, 1, 1, 0, 0, 0, 0)

    def test_a_letter_met_only_on_a_replay_leaves_the_ledger_as_it_is(self, state: State) -> None:
        counts = {(3, "Order Paid", "matched"): 1, (3, "Order Paid", "delivered"): 1}
        state.commit("main", "jsonl", Position(150, 0), counts)
        before = self.ledger_row(state)
        state.commit("main", "jsonl", Position(150, 0), {}, [letter(140, counted=False)])
        state.queue_dead_letters("main", ALL)
        (queued,) = state.queued("main", "jsonl", 10)
        assert not queued.counted
        state.repark(queued.id, Rejection("refused", "Order Paid", Position(140, 0), 0))
        state.commit("main", "jsonl", Position(150, 0), {}, settled=[queued.id])
        assert self.ledger_row(state) == before

    def test_settling_what_another_destination_parked_is_without_effect(self, state: State) -> None:
        state.create_checkpoint("main", "webhook", Position(0, -1))
        state.commit("main", "jsonl", Position(150, 0), rejected(1), [letter(140)])
        state.commit("main", "webhook", Position(150, 0), {}, settled=[state.dead_letters("main")[0].id])
        assert len(state.dead_letters("main")) == 1

    def test_queueing_by_destination_mapping_and_reason_takes_only_those(self, state: State) -> None:
        letters = [letter(140), letter(141, mapping="b"), replace(letter(142), reason="enum")]
        state.commit("main", "jsonl", Position(150, 0), {}, letters)
        assert state.queue_dead_letters("main", Selection(destination="elsewhere")) == 0
        assert state.queue_dead_letters("main", Selection(ids=[])) == 0
        assert state.queue_dead_letters("main", Selection(destination="jsonl", mapping="b")) == 1
        assert state.queue_dead_letters("main", Selection(reason="enum")) == 1
        assert [found.state for found in state.dead_letters("main")] == ["parked", "queued", "queued"]

    def test_dead_letters_are_counted_by_destination_and_reason(self, state: State) -> None:
        state.create_checkpoint("main", "webhook", Position(0, -1))
        state.commit("main", "webhook", Position(150, 0), {}, [replace(letter(140), reason="refused")])
        state.commit("main", "jsonl", Position(150, 0), {}, [letter(140), letter(141)])
        state.queue_dead_letters("main", Selection(ids=[state.dead_letters("main", destination="jsonl")[0].id]))
        assert state.count_dead_letters("main") == {("jsonl", "type_mismatch"): 2, ("webhook", "refused"): 1}

    def test_a_role_s_last_report_is_kept(self, state: State) -> None:
        detail = {"lag_bytes": 12345678901, "last_error": None, "rates": [1.5, 2], "text": "Grüße"}
        state.report("main", "deliver:jsonl", 41, "connecting", {})
        state.report("main", "deliver:jsonl", 42, "running", detail)
        state.report("main", "capture", 43, "running", {})
        capture, deliver = state.roles("main")
        assert (deliver.source, deliver.role, deliver.pid, deliver.state) == ("main", "deliver:jsonl", 42, "running")
        assert (deliver.host, deliver.detail) == (socket.gethostname(), detail)
        assert capture.role == "capture"
        assert deliver.updated_at > 1_700_000_000_000_000
        assert state.roles("other") == []

    def test_a_lock_is_held_by_one_at_a_time(self, state: State, url: str) -> None:
        with State.open(url) as other:
            with state.lock("capture:main") as held:
                held.verify()
                for taker in (state, other):
                    with pytest.raises(AlreadyRunning, match=rf"capture:main is held by process {os.getpid()} on "):
                        taker.lock("capture:main").__enter__()
                with other.lock("deliver:main/json l"):
                    pass
            with other.lock("capture:main") as held:
                held.verify()

    def test_a_lock_names_its_holder_and_is_freed_when_the_holder_is_killed(self, state: State, url: str) -> None:
        with program(HOLDER, url) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(AlreadyRunning, match=f"process {holder.pid} on {socket.gethostname()}") as raised:
                state.lock("capture:main").__enter__()
            assert "--standby" in raised.value.hint
            holder.kill()
            with state.lock("capture:main", wait=20):
                pass

    def test_a_lock_waits_for_the_one_before_it_to_let_go(self, state: State, url: str) -> None:
        with program(HOLDER, url) as holder:
            assert holder.stdout is not None
            assert holder.stdin is not None
            assert holder.stdout.readline() == "held\n"
            entered = threading.Event()

            def take() -> None:
                with state.lock("capture:main", wait=60):
                    entered.set()

            taker = threading.Thread(target=take)
            taker.start()
            assert not entered.wait(0.3)
            holder.stdin.write("\n")
            holder.stdin.flush()
            assert entered.wait(30)
            taker.join(30)

    def test_a_killed_deliverer_s_commits_are_whole(self, state: State, url: str) -> None:
        for commits in (5, 20):
            with program(COMMITTER, url) as committer:
                assert committer.stdout is not None
                for _ in range(commits):
                    assert committer.stdout.readline(), committer.stderr.read() if committer.stderr else ""
                committer.kill()
                said = list(map(int, committer.stdout.read().split()))
            found = state.checkpoint("main", "jsonl")
            assert found is not None
            assert not said or found.position.commit_lsn - said[-1] in (0, 1)
            count = found.position.commit_lsn - 100
            assert self.ledger_row(state) == LedgerRow("jsonl", "Order Paid", 3, count, 0, 0, count, 0, 0)
            assert state.count_dead_letters("main") == {("jsonl", "type_mismatch"): count}

    def test_two_deliverers_and_a_person_may_write_at_once(self, state: State, url: str) -> None:
        problems: list[BaseException] = []
        state.create_checkpoint("main", "webhook", Position(100, -1))

        def deliver(destination: str) -> None:
            try:
                with State.open(url) as mine:
                    for lsn in range(101, 161):
                        mine.commit("main", destination, Position(lsn, 0), rejected(1), [letter(lsn)])
                        for queued in mine.queued("main", destination, 5):
                            counts = {(queued.hour, queued.mapping, "delivered"): 1}
                            mine.commit("main", destination, Position(lsn, 0), counts, settled=[queued.id])
            except BaseException as error:
                problems.append(error)

        deliverers = [threading.Thread(target=deliver, args=[name]) for name in ("jsonl", "webhook")]
        for deliverer in deliverers:
            deliverer.start()
        while any(deliverer.is_alive() for deliverer in deliverers):
            state.queue_dead_letters("main", ALL)
        for deliverer in deliverers:
            deliverer.join()
        assert problems == []
        for row in state.ledger("main"):
            left = len(state.dead_letters("main", destination=row.destination))
            queued = len(state.queued("main", row.destination, 1000))
            assert (row.matched, row.delivered + left, row.pending) == (60, 60, queued)

    def test_processes_that_open_a_new_store_at_once_all_succeed(self, url: str) -> None:
        with program(OPENER, url) as one, program(OPENER, url) as two, program(OPENER, url) as three:
            for process in (one, two, three):
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in (one, two, three):
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            for process in (one, two, three):
                _, errors = process.communicate(timeout=60)
                assert process.returncode == 0, errors
        with State.open(url) as state:
            state.save_source(RECORD)

    def test_opening_a_store_that_is_up_to_date_does_not_load_alembic(self, state: State, url: str) -> None:
        with program(OPENER, url) as process:
            output, errors = process.communicate("\n", timeout=60)
            assert output == "ready\nFalse\n", errors

    def test_migrations_make_exactly_the_tables_that_the_code_declares(self, state: State, url: str) -> None:
        assert differences(url, metadata, KIND.version_table) == []

    def test_a_store_of_a_newer_version_stops(self, state: State, url: str) -> None:
        database = Database(url, KIND)
        with database.writing() as connection:
            connection.execute(text("UPDATE cdc_tracker_state_version SET version_num = '9999'"))
        database.close()
        with pytest.raises(Stop, match="newer cdc-tracker: its version is 9999"):
            State.open(url)
