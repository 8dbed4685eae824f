"""Operations that send history again, called as a console would: without a command line, and without a database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from cdc_tracker import operations
from cdc_tracker.config.config import Config
from cdc_tracker.delivery.points import EARLIEST, Target
from cdc_tracker.destinations.registry import described
from cdc_tracker.errors import InvalidRequest, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.model import Position
from cdc_tracker.state import SourceRecord, State
from cdc_tracker.worker.assemble import load_config, open_journal, open_state
from tests.unit.pipeline.frames import Commit, Order, at, lsn_of, segments
from tests.unit.state.job_suite import BACKFILL

CONFIG = """\
version: 1
source: {url: postgresql://nobody@127.0.0.1:1/nowhere, outbox: null}
destinations:
  events: {type: jsonl, path: out/}
  ledgered: {type: jsonl, path: ledgered/, sent_ledger: 30d}
"""
MAPPING = """\
version: 1
events:
  - {name: Order Placed, table: shop.orders, user_id: new.user_id}
  - {name: Order Paid, table: shop.orders, when: new.status == 'paid', user_id: new.user_id, properties: {x: 1 / new.id}}
"""
RECORD = SourceRecord("main", "7", "shop", "cdc_tracker", "pgoutput", "00000000-0000-0000-0000-000000000001", 1, 100, 100, 1)
COMMITS = [Commit(at(10), [Order(1)]), Commit(at(20), [Order(0), Order(2, status="new")]), Commit(at(30), [Order(3)])]


class Place(NamedTuple):
    config: Config
    state: State
    journal: Journal


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A source that is set up, with three transactions in its journal, of which `events` has dealt with all."""
    (tmp_path / "cdc-tracker.yml").write_text(CONFIG)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "orders.yml").write_text(MAPPING)
    config = load_config(tmp_path / "cdc-tracker.yml")
    config.data.mkdir()
    with open_state(config) as state, open_journal(config) as journal:
        state.sources.save(RECORD)
        journal.append(segments(COMMITS))
        for name in config.destinations:
            state.checkpoints.create("main", name, journal.end() or Position(0, -1))
        yield Place(config, state, journal)


def test_a_rewind_is_planned_as_values_and_applied_in_a_second_step(place: Place) -> None:
    plan = operations.resend.plan_rewind(*place, "events", EARLIEST)
    assert (plan.source, plan.destination, plan.counts.upto) == ("main", "events", place.journal.end())
    assert plan.counts.events == {"Order Placed": 4, "Order Paid": 2}
    assert plan.counts.reasons == {"expression_error": 1}
    with pytest.raises(Stop, match="6 events would be there twice"):
        operations.resend.request_rewind(place.state, place.journal, plan, accept_duplicates=False)
    assert _rewind_to(place) is None
    assert operations.resend.request_rewind(place.state, place.journal, plan, accept_duplicates=True) is False  # no worker runs
    assert _rewind_to(place) == plan.counts.after < plan.counts.upto


def test_a_replay_of_chosen_events_becomes_a_job_with_what_was_planned(place: Place) -> None:
    read: list[None] = []
    end = Target(lsn=lsn_of(1))
    plan = operations.resend.plan_replay(
        *place, "ledgered", EARLIEST, end, events=["Order Paid"], only_missing=True, advance=lambda: read.append(None)
    )
    assert (plan.events, plan.estimate.counts.upto) == (["Order Paid"], Position(lsn_of(1), -1))
    assert (plan.estimate.counts.total, plan.estimate.only_missing, len(read)) == (1, True, 2)
    with pytest.raises(Stop, match="would be there twice"):
        operations.resend.start_replay(place.state, place.journal, plan, accept_duplicates=False)
    assert place.state.jobs.all("main") == []
    job = operations.resend.start_replay(place.state, place.journal, plan, accept_duplicates=True, max_rate=5.0)
    assert (job.kind, job.destination, job.needs, job.state) == ("replay", "ledgered", plan.estimate.counts.after, "queued")
    operations.jobs.control(place.state, place.journal, "main", job.id, "paused")
    assert operations.jobs.one(place.state, "main", job.id).state == "paused"
    assert operations.jobs.progress(job) == (0, 1, 0, None)


def test_backfills_are_queued_all_or_none(place: Place) -> None:
    kind = described(place.config.destinations["events"])
    fine = operations.backfill.Backfill(
        source="main",
        destination="ledgered",
        spec=BACKFILL,
        key=("id",),
        rows=7,
        bytes=512,
        kind=kind,
        dry_run=False,
        duplicates=0,
    )
    doubling = replace(fine, destination="events", duplicates=1_200)
    with pytest.raises(Stop, match="events was delivered 1,200 events of Order Paid"):
        operations.backfill.start(place.state, place.journal, [fine, doubling], accept_duplicates=False)
    assert place.state.jobs.all("main") == []
    jobs = operations.backfill.start(place.state, place.journal, [fine, doubling], accept_duplicates=True)
    assert [(job.kind, job.destination, job.counts.total) for job in jobs] == [
        ("backfill", "ledgered", 7),
        ("backfill", "events", 7),
    ]


def test_unknown_names_are_invalid_requests_and_impossible_ones_say_why(place: Place) -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'events'"):
        operations.resend.plan_rewind(*place, "event", EARLIEST)
    with pytest.raises(InvalidRequest, match="did you mean 'Order Paid'"):
        operations.resend.plan_replay(*place, "events", EARLIEST, events=["Order Payd"])
    with pytest.raises(Stop, match="keeps no sent-ledger"):
        operations.resend.plan_replay(*place, "events", EARLIEST, only_missing=True)
    with pytest.raises(Stop, match="nothing to send again"):
        operations.resend.plan_rewind(*place, "events", Target(lsn=lsn_of(9)))
    with pytest.raises(Stop, match="no `backfill`"):
        operations.backfill.plan(place.config, place.state, "Order Paid", ["events"], operations.backfill.Wanted())
    with pytest.raises(InvalidRequest, match="--all"):
        operations.dead_letters.selection()


def test_a_diff_compares_the_mappings_in_force_with_others(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.yml"
    other.write_text(MAPPING.replace("when: new.status == 'paid', ", ""))
    found = operations.diff.compare(*place, [other], EARLIEST, events=["Order Paid"])
    assert {key: (each.added, each.unchanged) for key, each in found.events.items()} == {"Order Paid": (1, 2)}


def test_the_status_of_a_source_that_cannot_be_asked_is_a_value_with_findings(place: Place) -> None:
    now = operations.status.look(*place)
    assert now.slot.state is None
    assert now.problems[0].startswith("the source cannot be asked: ")
    assert [each.name for each in now.health.destinations] == ["events", "ledgered"]
    assert now.rates(now) == {"events": 0.0, "ledgered": 0.0}


def _rewind_to(place: Place) -> Position | None:
    checkpoint = place.state.checkpoints.get("main", "events")
    assert checkpoint is not None
    return checkpoint.rewind_to


def test_an_operation_that_does_not_exist_is_a_missing_attribute() -> None:
    assert not hasattr(operations, "undo")
    assert operations.resend.__name__ == "cdc_tracker.operations.resend"
