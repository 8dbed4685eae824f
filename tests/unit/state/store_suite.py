"""Sources, roles, locks and the store itself, whatever database holds it."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace

import pytest
from sqlalchemy import text

from cdc_tracker.errors import AlreadyRunning, Fenced, StateMissing, Stop
from cdc_tracker.model import Position
from cdc_tracker.state import Alarm, CaptureReport, Checkpoint, DeliveryReport, LedgerRow, Outcomes, State, locks, sent_id
from cdc_tracker.state.store import KIND
from cdc_tracker.state.tables import metadata
from cdc_tracker.storage.database import Database
from tests.unit.state.job_suite import SPEC
from tests.unit.state.samples import RECORD, OpenedStore, letter
from tests.unit.state.stores import differences, made_by_an_older_version, program
from tests.worker import until

OPENER = """
import sys
from cdc_tracker.state import State
print("ready", flush=True)
sys.stdin.readline()
State.open(sys.argv[1]).close()
print("alembic" in sys.modules)
"""
OF_THE_FIRST_VERSION = """
INSERT INTO cdc_tracker_source VALUES ('main', '7301234567890123456', 'shop', 'cdc_tracker', 'pgoutput',
    '2f1c7b1e-57a1-5d0c-8a5b-6d2b8f1f0a11', 0, 97500059720, 300, 1, 400);
INSERT INTO cdc_tracker_checkpoint VALUES ('main', 'jsonl', 0, 200, 3, 500, -1, 150, 0, 77),
    ('main', 'hook', 0, 200, 3, 200, 3, NULL, NULL, 78);
INSERT INTO cdc_tracker_ledger VALUES ('main', 'jsonl', 'Order Paid', 3, 9, 7, 0, 1, 1, 4);
INSERT INTO cdc_tracker_dead_letter VALUES (5, 'main', 'jsonl', 'Order Paid', 140, 2, 'type_mismatch', 'properties.revenue',
    'str', 'expected a number', 'e-1', 'parked', 2, true, 10800000005, 79, 'abc');
INSERT INTO cdc_tracker_role VALUES ('main', 'capture', 41, 'here', 'running', '{"lag": 5}', 80)
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


class StoreSuite(OpenedStore):
    def test_a_source_is_saved_replaced_and_found_again(self, state: State) -> None:
        assert state.sources.get("main") is None
        state.sources.save(RECORD)
        state.sources.save(replace(RECORD, name="other", database="crm"))
        assert state.sources.get("main") == RECORD
        changed = replace(RECORD, epoch=1, confirmed_lsn=5, timeline=2)
        state.sources.save(changed)
        assert state.sources.get("main") == changed
        assert state.sources.get("other") == replace(RECORD, name="other", database="crm")

    def test_confirmed_is_raised_and_never_lowered(self, state: State) -> None:
        state.sources.save(RECORD)
        state.sources.confirm("main", RECORD.confirmed_lsn + 10, 70)
        state.sources.confirm("main", RECORD.confirmed_lsn + 3, 60)
        found = state.sources.get("main")
        assert found is not None
        assert (found.confirmed_lsn, found.journaled_lsn) == (RECORD.confirmed_lsn + 10, 70)

    def test_confirming_for_a_source_that_the_store_does_not_know_stops(self, state: State) -> None:
        with pytest.raises(StateMissing, match="has no source nobody"):
            state.sources.confirm("nobody", 5, 5)

    def test_a_role_s_last_report_is_kept(self, state: State) -> None:
        report = DeliveryReport(trouble="Grüße", totals={"delivered": 12345678901}, recent={"7": {"rejected:x": 2}}, dry_run=True)
        state.reports.save("main", "deliver:jsonl", 41, "connecting", DeliveryReport())
        state.reports.save("main", "deliver:jsonl", 42, "running", report)
        state.reports.save("main", "capture", 43, "running", CaptureReport(alarms=[Alarm("it is slow", since=7)]))
        capture, deliver = state.reports.all("main")
        assert (deliver.source, deliver.role, deliver.pid, deliver.state) == ("main", "deliver:jsonl", 42, "running")
        assert (deliver.host, deliver.report) == (socket.gethostname(), report)
        assert capture.role == "capture" and not capture.unreadable
        assert state.reports.last("main", "capture", CaptureReport).alarms == [Alarm("it is slow", "", 7)]
        assert state.reports.last("main", "deliver:other", DeliveryReport) == DeliveryReport()
        assert deliver.updated_at > 1_700_000_000_000_000
        assert state.reports.all("other") == []

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

    def test_a_lock_that_is_held_is_looked_after(self, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "LOOK", 0.05)
        with state.lock("capture:main") as held:
            assert held.held()
            seen = held._seen
            until(lambda: held._seen > seen, "it was looked at again", seconds=20)

    def test_a_lock_that_was_not_looked_at_for_a_while_counts_for_nothing(
        self, state: State, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process was stopped, or its machine suspended."""
        monkeypatch.setattr(locks.Lock, "_watch", lambda _self, ended: ended.close())
        with state.lock("capture:main") as held:
            held._seen -= locks.FRESH
            assert not held.held()
            held.verify()
            assert held.held()

    def test_a_lock_that_cannot_be_looked_after_any_more_is_given_up(self, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "LOOK", 0.05)
        with state.lock("capture:main") as held:
            monkeypatch.setattr(held, "_holds", lambda: 1 / 0)
            until(lambda: held.lost is not None, "it is given up", seconds=20)
            with pytest.raises(Fenced, match="division by zero"):
                held.check()

    def test_who_waits_for_a_lock_gives_up_when_told_to_stop(self, state: State, url: str) -> None:
        with State.open(url) as other, state.lock("capture:main"), pytest.raises(AlreadyRunning):
            other.lock("capture:main", wait=600, stop=lambda: True).__enter__()

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

            taker = threading.Thread(target=take, daemon=True)
            taker.start()
            assert not entered.wait(0.3)
            holder.stdin.write("\n")
            holder.stdin.flush()
            assert entered.wait(30)
            taker.join(30)

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
            state.sources.save(RECORD)

    def test_opening_a_store_that_is_up_to_date_does_not_load_alembic(self, state: State, url: str) -> None:
        with program(OPENER, url) as process:
            output, errors = process.communicate("\n", timeout=60)
            assert output == "ready\nFalse\n", errors

    def test_migrations_make_exactly_the_tables_that_the_code_declares(self, state: State, url: str) -> None:
        assert differences(url, metadata, KIND.version_table) == []

    def test_a_store_of_the_first_version_keeps_all_that_it_held(self, url: str) -> None:
        made_by_an_older_version(url, KIND, "0001", OF_THE_FIRST_VERSION)
        with State.open(url) as state:
            assert state.sources.get("main") == replace(RECORD, confirmed_lsn=300, journaled_lsn=400)
            assert state.checkpoints.all("main") == {
                "jsonl": Checkpoint(Position(200, 3), Position(500, -1), Position(150, 0), 77, only_missing=False),
                "hook": Checkpoint(Position(200, 3), Position(200, 3), None, 78, only_missing=False),
            }
            assert state.ledger.rows("main") == [LedgerRow("jsonl", "Order Paid", 3, 9, 7, 0, 1, 1, 4)]
            totals = state.ledger.totals("main")["jsonl"]
            assert list(totals.now.values()) == list(totals.ever.values()) == [9, 7, 0, 1, 1, 4, 0]
            (parked,) = state.dead_letters.page("main")
            expected = replace(letter(140, 2), id=parked.id, attempts=2, created_at=79, segment=b"")
            assert parked == expected
            assert [(role.role, role.unreadable) for role in state.reports.all("main")] == [("capture", "")]
            assert state.checkpoints.apply_rewind("main", "jsonl") == Position(150, 0)
            job = state.jobs.create("main", "jsonl", SPEC)
            state.checkpoints.commit("main", "jsonl", Position(160, 0), Outcomes({}, sent=[sent_id("a")]))
            assert state.jobs.next("main", "jsonl") == job
            assert state.sent_ids.find("main", "jsonl", [sent_id("a")]) == {sent_id("a")}
        assert differences(url, metadata, KIND.version_table) == []

    @pytest.mark.parametrize("role", ["worker", "capture", "deliver:hook"])
    def test_a_store_that_an_older_worker_uses_is_migrated_once_that_has_ended(self, url: str, role: str) -> None:
        made_by_an_older_version(url, KIND, "0001", OF_THE_FIRST_VERSION)
        older = Database(url, KIND)
        with locks.make(older, f"main.{role}", 0.0, 0.0, lambda: False):
            for opened in (State.open, State.open_to_read):
                with pytest.raises(
                    AlreadyRunning, match=f"older version, and in use: main.{role} is held by process {os.getpid()}"
                ):
                    opened(url)
            with older.writing() as connection:  # as the older one counts: it knows of no totals
                connection.execute(text("UPDATE cdc_tracker_ledger SET matched = 10, delivered = 8"))
        older.close()
        with State.open(url) as state:
            assert state.ledger.totals("main")["jsonl"].now["delivered"] == 8

    def test_a_store_of_a_newer_version_stops(self, state: State, url: str) -> None:
        database = Database(url, KIND)
        with database.writing() as connection:
            connection.execute(text("UPDATE cdc_tracker_state_version SET version_num = '9999'"))
        database.close()
        with pytest.raises(Stop, match="newer cdc-tracker: its version is 9999"):
            State.open(url)
