"""A destination that holds its checkpoint, and more than one stream of events, or more than one hand on what it holds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from threading import Barrier
from typing import cast

import pytest

from cdc_tracker.destinations.base import Cursor
from cdc_tracker.errors import AlreadyRunning, CheckpointMoved, DestinationUnavailable, Stop
from cdc_tracker.model import Batch, Position
from tests.contract.kills import PATIENCE, Deliverer, Holder, order
from tests.contract.kits import HOLDERS
from tests.vendors.kit import CURSOR, Kit, Opener, anybody, batch, events, nobody

HERE, THERE = CURSOR, CURSOR._replace(source="orders", origin="another")
MOVED = (CheckpointMoved, AlreadyRunning)


@contextmanager
def opened(kit: Kit, cursor: Cursor | None = HERE, owns: Callable[[Position], bool] = nobody) -> Iterator[Holder]:
    assert isinstance(kit.open, Opener)
    with closing(cast("Holder", kit.open.bound(cursor, owns)())) as destination:
        yield destination


@pytest.mark.invariant(5)
@pytest.mark.parametrize("second", [THERE, CURSOR._replace(origin="another")], ids=["source", "origin"])
def test_two_streams_side_by_side_each_have_their_own_position(holder: Kit, second: Cursor) -> None:
    ours, theirs = events(20), events(20, start=500)
    with opened(holder) as one, opened(holder, second) as other:
        assert one.position() is other.position() is None
        for n in (0, 10):
            other.deliver(batch(theirs[n : n + 10]))
            one.deliver(batch(ours[n : n + 10]))
        assert (one.position(), other.position()) == (ours[-1].position, theirs[-1].position)
    with opened(holder) as one, opened(holder, second) as other:
        assert (one.position(), other.position()) == (ours[-1].position, theirs[-1].position)
    assert sorted(order(holder)) == [*range(20), *range(500, 520)]


@pytest.mark.invariant(5)
def test_what_was_stored_under_the_name_alone_is_taken_over_by_its_own_source_only(holder: Kit) -> None:
    made, theirs = events(30), events(10, start=500)
    with opened(holder, None) as landed:
        landed.deliver(batch(made[:10]))
    with opened(holder, THERE) as stranger:
        assert stranger.position() is None
        stranger.deliver(batch(theirs))
    for n in (10, 20):  # taken over, and found again
        with opened(holder, HERE, lambda found: found == made[9].position) as owner:
            assert owner.position() == made[n - 1].position
            owner.deliver(batch(made[n : n + 10]))
    with opened(holder, THERE, anybody) as stranger:
        assert stranger.position() == theirs[-1].position
    assert sorted(order(holder)) == [*range(30), *range(500, 510)]


@pytest.mark.parametrize("holder", [name for name in HOLDERS if name != "warehouse-duckdb"], indirect=True)  # one process writes
def test_two_workers_that_take_over_at_once_deliver_each_event_once(holder: Kit) -> None:
    made = events(30)
    with opened(holder, None) as landed:
        landed.deliver(batch(made[:10]))
    together = Barrier(2, timeout=60)

    def work() -> None:
        """As the core does: from the position on, and anew where that is not what it was."""
        together.wait()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(*MOVED, DestinationUnavailable), opened(holder, HERE, anybody) as destination:
                while (position := destination.position()) != made[-1].position:
                    assert position is not None
                    rest = [event for event in made if event.position > position]
                    destination.deliver(batch(rest[:10]))
                return
            time.sleep(random.uniform(0, 0.2))
        raise AssertionError("it did not come to an end")

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for _ in range(2)]:
            future.result()
    assert order(holder) == list(range(30))


def take_over(opener: Opener, start: int, done: Connection) -> None:
    """Says when it begins; then takes over what is there, and delivers 20 events."""
    done.send("begins")
    with closing(cast("Holder", opener())) as destination:
        destination.position()
        for n in range(start, start + 20, 5):
            destination.deliver(batch(events(5, start=n)))
    done.send("has ended")
    time.sleep(PATIENCE)


@pytest.mark.invariant(5)
def test_killed_while_it_takes_over_each_event_is_there_once(holder: Kit) -> None:
    made = events(10)
    assert isinstance(holder.open, Opener)
    for n in range(3):
        with opened(holder, None) as landed:  # the layout of the time before cursors, once more
            landed.deliver(batch(made)) if n == 0 else landed.rewind(made[-1].position)
        cursor, start = HERE._replace(partition=n), 10 + 20 * n
        child = Deliverer(take_over, holder.open.bound(cursor, anybody), start)
        child.hear()
        time.sleep(random.uniform(0, 3.0 if holder.merges else 0.3))
        child.kill()
        with opened(holder, cursor, anybody) as destination:
            position = destination.position()
            rest = [event for event in events(20, start=start) if position is None or event.position > position]
            if rest:
                destination.deliver(batch(rest))
    assert sorted(order(holder)) == list(range(70))


def test_a_second_writer_under_the_same_cursor_fails_instead_of_doubling(holder: Kit) -> None:
    made = events(40)
    with opened(holder) as stale:
        stale.position()
        stale.deliver(batch(made[:10]))
        with suppress(AlreadyRunning), opened(holder) as newer:
            assert newer.position() == made[9].position
            newer.deliver(batch(made[10:20]))
            with pytest.raises(MOVED):
                stale.deliver(batch(made[10:15]))
            with suppress(*MOVED):  # the newer one may have to look again as well
                newer.deliver(batch(made[20:30]))
    found = order(holder)
    assert sorted(found) == list(range(len(found)))


def test_taken_back_while_it_runs_nothing_is_written_over_the_older_position(holder: Kit) -> None:
    assert holder.keep is not None
    made = events(40)
    with opened(holder) as destination:
        destination.deliver(batch(made[:10]))
        bring_back = holder.keep()
        destination.deliver(batch(made[10:20]))
        bring_back()
        with pytest.raises(MOVED):
            destination.deliver(batch(made[20:30]))
    with opened(holder) as destination:
        assert destination.position() == made[9].position
        destination.deliver(batch(made[10:]))
    assert order(holder) == list(range(40))


def test_emptied_while_it_runs_later_events_are_there_and_the_loss_is_seen(holder: Kit) -> None:
    assert holder.remove is not None
    made = events(40)
    with opened(holder) as destination:
        destination.deliver(batch(made[:10]))
        destination.deliver(batch(made[10:20]))
        holder.remove()
        with pytest.raises(CheckpointMoved):
            for _ in range(2):  # the first try may only see that something is amiss
                with suppress(DestinationUnavailable):
                    destination.deliver(batch(made[20:30]))
    with opened(holder) as destination:
        assert destination.position() is None
        destination.deliver(batch(made[20:]))
    assert order(holder) == list(range(20, 40))


def test_a_batch_beside_the_stream_is_not_written_into_what_was_taken_back(holder: Kit) -> None:
    assert holder.remove is not None
    made = events(40)
    with opened(holder) as destination:
        destination.deliver(batch(made[:10]))
        holder.remove()
        with pytest.raises(CheckpointMoved):
            for _ in range(2):
                with suppress(DestinationUnavailable):
                    destination.deliver(Batch(made[20:30], made[9].position, out_of_band="job 1 at 3"))


def test_names_that_differ_in_case_signs_or_length_are_different_cursors() -> None:
    names = ["shop", "Shop", "SHOP", "shöp", "sh p", "sh/p", "sh.p", "sh_p", "x" * 300, "x" * 299, "", "main.shop", "\0", "."]
    cursors = [Cursor(source, name) for source in names for name in names]
    cursors += [Cursor("main", "shop", 1), Cursor("main", "shop", 0, "a"), Cursor("main", "shop", 0, "b"), Cursor("main", "1")]
    assert len({cursor.key.casefold() for cursor in cursors}) == len(cursors)
    for cursor in cursors:
        assert len(cursor.key) <= 128
        assert set(cursor.key) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")


def test_nothing_stops_for_good() -> None:
    """CheckpointMoved must not be a Stop: the role starts anew and goes on by itself."""
    assert not issubclass(CheckpointMoved, Stop)
