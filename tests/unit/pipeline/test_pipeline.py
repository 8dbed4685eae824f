"""What a destination gets of a segment: the ways to ask agree, and the steps are taken in order."""

from __future__ import annotations

import pytest

from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.model import START, Change, Event, Position, Rejection, Result, Segment, Suppression
from cdc_tracker.pipeline import Pipeline, route_of
from cdc_tracker.pipeline.steps import Build, Step, through
from tests.unit.pipeline.frames import Commit, Order, at, lsn_of, pipeline, segments

MAPPING = """
version: 1
events:
  - {name: Order Placed, table: shop.orders, user_id: new.user_id, properties: {total: {value: new.amount, maximum: 100}}}
  - {name: Order Paid, table: shop.orders, user_id: new.user_id, when: new.status == 'paid'}
"""
COMMITS = [
    Commit(at(10), [Order(1), Order(2, status="new"), Order(3, amount="100.01")]),
    Commit(at(20), [Order(4, status="new", amount="101"), Order(5)]),
]


@pytest.fixture
def segment() -> Segment:
    [made] = segments(COMMITS, len(COMMITS))
    return made


def route(**settings: object) -> Step | None:
    return route_of(DestinationSettings.model_validate({"type": "x", **settings}))


def portioned(asked: Pipeline, segment: Segment, after: Position, upto: Position | None, size: int) -> list[Result]:
    return [result for results, _ in asked.portions(segment, after, upto, size=size) for result in results]


@pytest.mark.parametrize("settings", [{}, {"events": {"except": ["* Paid"]}}, {"dry_run": True}])
@pytest.mark.parametrize("after", [START, Position(lsn_of(0), 0), Position(lsn_of(1), 0)])
@pytest.mark.parametrize("upto", [None, START, Position(lsn_of(0), 1), Position(lsn_of(1), -1), Position(lsn_of(1), 1)])
def test_every_way_to_ask_gives_the_same(
    segment: Segment, settings: dict[str, object], after: Position, upto: Position | None
) -> None:
    asked = pipeline(MAPPING, route=route(**settings))
    whole = asked.results(segment, START)
    wanted = [result for result in whole if after < result.position <= (upto or segment.last)]
    assert asked.results(segment, after, upto) == wanted
    assert [result for _, results in asked.changes(segment, after, upto) for result in results] == wanted
    for size in (1, 2, 3, 100):
        assert portioned(asked, segment, after, upto, size) == wanted


def test_portions_tell_up_to_where_they_are_complete(segment: Segment) -> None:
    asked = pipeline(MAPPING)
    reached = [position for _, position in asked.portions(segment, START, size=2)]
    assert reached == [Position(lsn_of(0), 1), Position(lsn_of(1), 0), segment.last]
    upto = Position(lsn_of(0), 1)
    assert [position for _, position in asked.portions(segment, START, upto, size=100)] == [upto]


def test_what_is_left_out_has_its_reason_and_stays_in_its_place(segment: Segment) -> None:
    plain = pipeline(MAPPING).results(segment, START)
    assert sum(isinstance(result, Rejection) for result in plain) == 2
    chosen = pipeline(MAPPING, route=route(events={"except": ["* Paid"]})).results(segment, START)
    assert chosen == [
        Suppression("not_selected", result) if isinstance(result, Event) and result.mapping == "Order Paid" else result
        for result in plain
    ]
    dry = pipeline(MAPPING, route=route(dry_run=True, events={"except": ["* Paid"]})).results(segment, START)
    assert dry == [Suppression("dry_run", result) if isinstance(result, Event) else result for result in plain]


def test_steps_are_taken_in_order_until_one_gives_no_event(segment: Segment) -> None:
    [event, *_] = [result for result in pipeline(MAPPING).results(segment, START) if isinstance(result, Event)]
    [change, *_] = [change for change, _ in pipeline(MAPPING).changes(segment, START)]
    taken: list[str] = []

    def passing(name: str) -> Step:
        def step(given: Event, of: Change) -> Result:
            assert (given, of) == (event, change)
            taken.append(name)
            return given

        return step

    def stopping(given: Event, of: Change) -> Result:
        taken.append("stops")
        return Suppression("consent_denied", given)

    def built(result: Result | None) -> Build:
        return lambda _: result

    assert through(built(event), [passing("first"), passing("second")])(change) == event
    assert through(built(event), [passing("third"), stopping, passing("never")])(change) == Suppression("consent_denied", event)
    rejection = Rejection("type_mismatch", "Order Paid", event.position, 0)
    assert through(built(rejection), [passing("never")])(change) == rejection
    assert through(built(None), [passing("never")])(change) is None
    assert taken == ["first", "second", "third", "stops"]


def test_without_steps_a_function_is_not_wrapped() -> None:
    def build(_: Change) -> None:
        return None

    assert through(build, ()) is build
