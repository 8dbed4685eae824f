"""What every destination must do that stores its own checkpoint."""

from __future__ import annotations

import pytest

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.model import Batch, Outcome, Position
from tests.contract.faulty import faulty
from tests.contract.kills import killed, opened, order, standing
from tests.contract.test_destinations import never, quiet
from tests.vendors.kit import Kit, batch, events

KILLS = 6
QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005)


def test_there_is_no_position_before_the_first_batch(holder: Kit) -> None:
    destination = opened(holder)
    assert destination.position() is None
    destination.close()


def test_the_position_is_stored_with_the_events(holder: Kit) -> None:
    destination = opened(holder)
    made = events(25)
    destination.deliver(Batch(made, Position(9_000, -1)))
    assert destination.position() == Position(9_000, -1)
    destination.close()
    again = opened(holder)
    assert again.position() == Position(9_000, -1)
    again.close()


def test_a_rewound_destination_receives_the_range_again(holder: Kit) -> None:
    destination = opened(holder)
    made = events(30)
    destination.deliver(batch(made))
    destination.rewind(made[9].position)
    destination.close()
    again = opened(holder)
    assert again.position() == made[9].position
    again.deliver(batch(made[10:]))
    assert again.position() == made[-1].position
    again.close()
    assert order(holder) == list(range(30)) + (list(range(10, 30)) if holder.keeps_repeats else [])


@pytest.mark.invariant(6)
def test_a_position_never_passes_an_event_that_was_rejected(holder: Kit) -> None:
    """Its dead letter is written by the core later, and a crash may come between."""
    destination = opened(holder)
    front = faulty(destination)
    made = events(20)
    front.minds = lambda one: one.message_id == made[12].message_id
    receipts = send(front, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    assert [i for i, receipt in enumerate(receipts) if receipt.outcome is Outcome.REJECTED] == [12]
    position = destination.position()
    assert position is not None
    assert made[11].position <= position < made[12].position
    destination.close()


def test_a_position_never_passes_what_is_not_stored_while_a_batch_goes_in_parts(holder: Kit) -> None:
    destination = opened(holder)
    front = faulty(destination)
    front.most = 3
    made = events(20)
    send(front, batch(made), stop=never, on_trouble=quiet, backoff=QUICK)
    for call in front.calls[:-1]:
        unsent = [one.position for one in made if one.position > call.events[-1].position]
        assert len(call.events) > 3 or call.upto < unsent[0]
    assert destination.position() == made[-1].position
    destination.close()


def test_older_events_sent_again_do_not_move_the_position_back(holder: Kit) -> None:
    """As retried dead letters are."""
    destination = opened(holder)
    made = events(40)
    destination.deliver(batch(made))
    front = faulty(destination)
    front.most = 2
    send(front, Batch(made[:8], made[-1].position, out_of_band="dead letter 1"), stop=never, on_trouble=quiet, backoff=QUICK)
    assert {call.upto for call in front.calls} == {made[-1].position}
    assert destination.position() == made[-1].position
    destination.close()


@pytest.mark.invariant(5)
def test_a_batch_that_goes_beside_the_stream_leaves_the_position_and_is_taken_once(holder: Kit) -> None:
    destination = opened(holder)
    made = events(40)
    destination.deliver(batch(made[:10]))
    beside = Batch(made[20:30], made[9].position, out_of_band="job 1 at 3")
    destination.deliver(beside)
    assert destination.position() == made[9].position
    destination.close()
    again = opened(holder)  # as after a crash before the job's progress was stored
    again.deliver(beside)
    again.deliver(batch(made[10:20]))
    again.deliver(beside)
    again.deliver(Batch(made[30:], made[19].position, out_of_band="job 1 at 4"))
    assert again.position() == made[19].position
    again.close()
    assert sorted(order(holder)) == list(range(40))


@pytest.mark.invariant(5)
def test_killed_at_any_moment_each_event_is_there_once(holder: Kit) -> None:
    """`make soak` kills more often."""
    began = set()
    for number in range(KILLS):
        began.add(killed(holder, number))
        found = standing(holder)
        assert found.held == list(range(found.expected))
    assert len(began) > KILLS // 2  # it went on between the kills
