"""What a destination gets that wants raw changes, or its events' row keys."""

from __future__ import annotations

import pytest

from cdc_tracker.config.settings import OutboxSettings
from cdc_tracker.delivery.dead_letters import park, remake
from cdc_tracker.destinations.base import Requirements
from cdc_tracker.mapping import load_texts
from cdc_tracker.model import RAW, START, Event, Rejection, Segment
from cdc_tracker.pipeline import Pipeline, whole_changes
from cdc_tracker.pipeline.debezium_envelope import as_envelope
from tests.unit.pipeline.frames import SPACE, Commit, Order, at, segments

MAPPING = """
version: 1
events:
  - name: Order Paid
    table: shop.orders
    on: [insert]
    when: new.status == 'paid'
    user_id: new.user_id
    properties: {revenue: {value: new.amount, type: number}}
"""
KEYS = {"shop.orders": ("id",)}
COMMITS = [Commit(at(n), [Order(2 * n), Order(2 * n + 1, status="open", amount="12345678901234567.123456789")]) for n in range(3)]


def pipeline(mapping: str = MAPPING, *, only: list[str] | None = None, **wants: object) -> Pipeline:
    return Pipeline(
        load_texts({"events.yml": mapping}),
        outbox=OutboxSettings(),
        namespace=SPACE,
        database="shop",
        destination=None,
        requirements=Requirements(**wants),  # type: ignore[arg-type]  # as the tests name them
        only=only,
    )


@pytest.fixture
def segment() -> Segment:
    [made] = segments(COMMITS, len(COMMITS))
    return made


def made(given: Pipeline, segment: Segment) -> list[Event]:
    found = given.results(segment, START)
    assert all(isinstance(each, Event) for each in found)
    return [each for each in found if isinstance(each, Event)]


def test_every_change_comes_as_its_envelope_whatever_the_mappings_say(segment: Segment) -> None:
    found = made(pipeline(raw=True), segment)
    assert [each.body.decode() for each in found] == [as_envelope(change, "shop") for change in whole_changes(segment)]
    assert len(found) == 6
    assert {(each.type, each.mapping, each.row_key) for each in found} == {(RAW, "raw:shop.orders", b"")}
    assert len({each.message_id for each in found}) == 6
    assert made(pipeline("version: 1\nevents: []", raw=True), segment) == found


def test_positions_and_ids_are_the_same_when_it_is_read_again_from_within(segment: Segment) -> None:
    found = made(pipeline(raw=True), segment)
    again = pipeline(raw=True).results(segment, found[2].position)
    assert again == found[3:]


def test_only_chooses_by_the_ledgers_keys(segment: Segment) -> None:
    assert len(made(pipeline(raw=True, only=["raw:shop.orders"]), segment)) == 6
    assert made(pipeline(raw=True, only=["raw:shop.users"]), segment) == []
    assert len(made(pipeline(only=["Order Paid"]), segment)) == 3
    assert made(pipeline(only=["outbox"]), segment) == []


def test_events_carry_their_rows_key_and_are_otherwise_the_same(segment: Segment) -> None:
    plain, keyed = made(pipeline(), segment), made(pipeline(row_key=True, key_columns=KEYS), segment)
    assert [each.row_key for each in plain] == [b""] * 3
    assert [each.row_key for each in keyed] == [b'{"id":0}', b'{"id":2}', b'{"id":4}']
    assert [each.body for each in keyed] == [each.body for each in plain]
    assert [each.message_id for each in keyed] == [each.message_id for each in plain]


def test_a_rejection_stays_one_where_keys_are_wanted(segment: Segment) -> None:
    given = pipeline(MAPPING.replace("new.amount", "new.email"), row_key=True, key_columns=KEYS)
    assert {type(each) for each in given.results(segment, START)} == {Rejection}


def test_a_table_whose_key_is_not_known_is_told_once(segment: Segment) -> None:
    given = pipeline(raw=True, row_key=True)
    assert {each.row_key for each in made(given, segment)} == {b""}
    assert [problem.key for problem in given.problems] == ["shop.orders"]


def test_a_parked_raw_change_is_made_again_as_it_was(segment: Segment) -> None:
    given = pipeline(raw=True, row_key=True, key_columns=KEYS)
    refused = made(given, segment)[3]
    rejection = Rejection("refused", refused.mapping, refused.position, refused.committed_at, event_id=refused.message_id)
    [letter] = park("main", "kafka", [segment], [rejection], START)
    assert letter.mapping == "raw:shop.orders"
    assert remake(letter, pipeline(raw=True, row_key=True, key_columns=KEYS)) == refused
