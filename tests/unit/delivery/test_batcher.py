"""Results → batches: where one ends does not depend on the portions in which results are added."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cdc_tracker.delivery.batcher import Batcher, PendingBatch
from cdc_tracker.destinations.base import Limits
from cdc_tracker.model import START, Event, Position, Rejection, Result, Segment, Suppression

SEGMENT = Segment("pgoutput", b"", 0, 0, START, Position(99, -1), 5, 5)


def event(change: int, number: int, size: int) -> Event:
    return Event(f"m-{change}-{number}", "track", b"x" * size, "order_paid", Position(change, 0), 1_000)


def result(kind: str, change: int, number: int, size: int) -> Result:
    made = event(change, number, size)
    if kind == "rejection":
        return Rejection("type_mismatch", made.mapping, made.position, made.committed_at)
    return made if kind == "event" else Suppression("not_selected", made)


KINDS = st.sampled_from(["event", "event", "event", "rejection", "suppression"])
CHANGES = st.lists(st.lists(st.tuples(KINDS, st.integers(1, 9)), max_size=4), max_size=12)


def batched(portions: list[list[tuple[int, list[Result]]]], limits: Limits, after: Position = START) -> list[PendingBatch]:
    batcher, found = Batcher(after, limits), []
    for portion in portions:
        results = [each for _, made in portion for each in made]
        found += list(batcher.add(SEGMENT, results, Position(portion[-1][0], 0)))
    found += list(batcher.add(SEGMENT, [], SEGMENT.last))
    return [replace(batch, time=0) for batch in (*found, batcher.close())]


@given(CHANGES, st.integers(1, 5), st.integers(10, 40), st.integers(1, 4))
def test_batches_are_the_same_in_whatever_portions_results_come(
    changes: list[list[tuple[str, int]]], events: int, size: int, step: int
) -> None:
    made = [
        (place, [result(kind, place, number, length) for number, (kind, length) in enumerate(kinds)])
        for place, kinds in enumerate(changes, 1)
    ]
    limits = Limits(events, size, 10**6)
    singly = batched([[one] for one in made], limits)
    assert batched([made[at : at + step] for at in range(0, len(made), step)], limits) == singly
    for number, batch in enumerate(singly, 1):
        left = [(place, several) for place, several in made if place > batch.upto.commit_lsn]
        again = batched([left[at : at + step] for at in range(0, len(left), step)], limits, batch.upto)
        assert again[: len(singly) - number] == singly[number:]
    results = [each for _, several in made for each in several]
    assert [each for batch in singly for each in batch.events] == [each for each in results if isinstance(each, Event)]
    assert sum(batch.matched for batch in singly) == len(results)
    after = START
    for batch in singly:
        positions = {each.position for each in batch.events} | {each.position for each in batch.suppressions}
        assert all(after < position <= batch.upto for position in positions)
        after = batch.upto


def test_what_is_suppressed_later_leaves_the_events_with_its_reason() -> None:
    kept, known = event(1, 0, 3), event(2, 0, 3)
    batch = PendingBatch(Position(2, 0), [kept, known])
    batch.suppress({known.message_id, "another"}, "already_sent")
    assert (batch.events, batch.suppressions) == ([kept], [Suppression("already_sent", known)])
    assert batch.matched == 2
