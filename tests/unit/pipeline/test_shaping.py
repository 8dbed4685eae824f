"""What a destination's own settings make of an event: which it gets, which properties, under which names."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cdc_tracker.delivery.batcher import Batcher, PendingBatch
from cdc_tracker.destinations.base import DestinationSettings, Limits
from cdc_tracker.model import START, Change, Event, Position, Rejection, Result, Segment, Transaction
from cdc_tracker.pipeline import route_of

BODY = (
    '{"type":"track","event":"Order Paid","messageId":"m-1","userId":"3","properties":{"id":7,"email":"a@b.c",'
    '"address":{"city":"Ulm","zip":"89073"},"items":[{"sku":"x","price":1.10},{"sku":"y","price":2E-30}],"none":null},'
    '"context":{"ip":"10.0.0.1","source":{"lsn":"0/1"}},"timestamp":"2026-01-02T03:04:05Z"}'
)


CHANGE = Change("c", None, None, None, START, 0, 0, Transaction(1, 0, 0))  # a route does not look at it


def routed(**asked: Any) -> Callable[[Event], Result]:
    route = route_of(DestinationSettings.model_validate({"type": "x", **asked}))
    assert route is not None
    return lambda event: route(event, CHANGE)


def shaping(**asked: Any) -> Callable[[Event], Event | None]:
    route = routed(**asked)
    return lambda event: found if isinstance(found := route(event), Event) else None


def event(body: str = BODY, kind: str = "track", n: int = 1) -> Event:
    return Event(f"m-{n}", kind, body.encode(), "order_paid", Position(n, 0), 1_000)


def shaped(body: str = BODY, kind: str = "track", **asked: Any) -> str | None:
    made = shaping(**asked)(event(body, kind))
    return None if made is None else made.body.decode()


def test_settings_that_ask_for_nothing_cost_nothing() -> None:
    assert route_of(DestinationSettings(type="x")) is None


# Events.


@pytest.mark.parametrize(
    ("asked", "kind", "name", "goes"),
    [
        ({"only": ["Order Paid"]}, "track", "Order Paid", True),
        ({"only": ["Order Paid"]}, "track", "Order Paid Again", False),
        ({"only": ["Order *"]}, "track", "Order Paid", True),
        ({"only": ["*Paid", "User *"]}, "track", "Order Paid", True),
        ({"only": ["Order *"]}, "identify", "", False),
        ({"only": ["Order *", "type:identify"]}, "identify", "", True),
        ({"only": ["*"]}, "alias", "", False),
        ({"only": ["Home"]}, "page", "Home", True),
        ({"only": ["type:page"]}, "screen", "Home", False),
        ({"except": ["Order *"]}, "track", "Order Paid", False),
        ({"except": ["Order *"]}, "track", "User Created", True),
        ({"except": ["Order *"]}, "group", "", True),
        ({"except": ["type:track"]}, "track", "Order Paid", False),
        ({"except": ["a.c [x]"]}, "track", "abc x", True),
        ({"except": ["a.c [x]"]}, "track", "a.c [x]", False),
    ],
)
def test_an_event_goes_by_its_name_or_its_type(asked: dict[str, Any], kind: str, name: str, goes: bool) -> None:
    key = {"track": "event", "page": "name", "screen": "name"}.get(kind)
    body = json.dumps({"type": kind, **({key: name} if key else {}), "messageId": "m-1", "userId": "3"})
    made = shaping(events=asked)
    call = event(body, kind)
    assert (made(call) is call) is goes
    assert goes or made(call) is None


def test_a_renamed_event_has_its_new_name_and_all_else_as_it_was() -> None:
    made = shaping(events={"rename": {"Order Paid": 'größe "1"'}})(event())
    assert made is not None
    assert made.body.decode() == BODY.replace('"Order Paid"', '"größe \\"1\\""', 1)
    assert (made.message_id, made.type, made.mapping, made.position) == ("m-1", "track", "order_paid", Position(1, 0))


def test_what_belongs_to_an_event_beside_its_body_stays() -> None:
    call = Event("m", "track", BODY.encode(), "order_paid", START, 1, b'{"id":1}', b'{"id":0}')
    made = shaping(properties={"except": ["email"]})(call)
    assert made is not None
    assert (made.row_key, made.old_key, made.committed_at) == (b'{"id":1}', b'{"id":0}', 1)


def test_a_page_is_renamed_by_its_name_and_an_event_of_that_name_within_is_not() -> None:
    body = '{"type":"page","name":"Home","messageId":"m","userId":"3","properties":{"name":"Home","event":"Home"}}'
    assert shaped(body, "page", events={"rename": {"Home": "Start"}}) == body.replace('"name":"Home"', '"name":"Start"', 1)


def test_filters_look_at_the_name_before_it_is_changed() -> None:
    assert shaped(events={"only": ["Order Paid"], "rename": {"Order Paid": "paid"}}) == BODY.replace("Order Paid", "paid")


def test_an_outbox_event_whose_name_is_no_text_has_none() -> None:
    body = '{"type":"track","event":7,"messageId":"m","userId":"3"}'
    assert shaped(body, events={"except": ["7"]}) == body
    assert shaped(body, events={"only": ["*"]}) is None


# Properties.


@pytest.mark.parametrize(
    ("asked", "before", "after"),
    [
        ({"except": ["email"]}, '"email":"a@b.c",', ""),
        ({"except": ["id"]}, '"id":7,', ""),
        ({"except": ["none"]}, ',"none":null', ""),
        ({"except": ["address.zip"]}, ',"zip":"89073"', ""),
        ({"except": ["items.price"]}, '{"sku":"x","price":1.10},{"sku":"y","price":2E-30}', '{"sku":"x"},{"sku":"y"}'),
        ({"except": ["context.ip"]}, '"ip":"10.0.0.1",', ""),
        ({"except": ["context.source.lsn"]}, '"lsn":"0/1"', ""),
        ({"rename": {"id": "order_id"}}, '"id":7', '"order_id":7'),
        ({"rename": {"address.city": "town"}}, '"city":"Ulm"', '"town":"Ulm"'),
        ({"rename": {"address": "place", "address.city": "town"}}, '"address":{"city"', '"place":{"town"'),
        ({"rename": {"items.sku": "id"}}, '{"sku":"x","price":1.10},{"sku":"y"', '{"id":"x","price":1.10},{"id":"y"'),
        ({"rename": {"id": "email"}}, '"id":7,"email":"a@b.c"', '"email":7'),
        ({"rename": {"id": "email", "email": "id"}}, '"id":7,"email":"a@b.c"', '"email":7,"id":"a@b.c"'),
        ({"rename": {"missing": "email"}}, "", ""),
        ({"except": ["city", "address.id", "id.x", "none.x", "context.email"]}, "", ""),
    ],
)
def test_what_is_named_changes_and_every_other_byte_stays(asked: dict[str, Any], before: str, after: str) -> None:
    assert shaped(properties=asked) == BODY.replace(before, after, 1)


@pytest.mark.parametrize(
    ("only", "properties"),
    [
        (["id"], '{"id":7}'),
        (["none", "id"], '{"id":7,"none":null}'),
        (["address.city"], '{"address":{"city":"Ulm"}}'),
        (["address.city", "address"], '{"address":{"city":"Ulm","zip":"89073"}}'),
        (["items.price"], '{"items":[{"price":1.10},{"price":2E-30}]}'),
        (["email.part", "missing"], "{}"),
    ],
)
def test_only_leaves_what_it_names(only: list[str], properties: str) -> None:
    made = shaped(properties={"only": only})
    assert made is not None
    assert f'"properties":{properties},"context":{{"ip"' in made


def test_traits_are_shaped_as_properties_are() -> None:
    body = '{"type":"identify","messageId":"m","userId":"email","traits":{"email":"a","plan":"pro"}}'
    asked = {"except": ["email"], "rename": {"plan": "tier"}}
    assert shaped(body, "identify", properties=asked) == body.replace('"email":"a","plan"', '"tier"')


def test_a_key_with_dots_of_its_own_a_key_in_escapes_and_a_key_that_stands_twice_do_not_slip_through() -> None:
    body = '{"type":"track","properties":{ "a.b" : 1 ,"\\u0065mail":2, "x":[ {"email":3 } , 4 ],"email" :5,"email":6}}'
    left = '{"type":"track","properties":{ "x":[ {"email":3 } , 4 ]}}'
    assert shaped(body, properties={"except": ["a.b", "email"]}) == left
    assert shaped(left, properties={"except": ["x.email"]}) == left.replace('{"email":3 }', "{}")
    assert shaped(left, properties={"only": ["x.email"]}) == left.replace(" , 4 ", " ")


def test_in_a_dry_run_nothing_goes() -> None:
    assert shaped(dry_run=True) is None


# Any JSON.


def read(body: str | bytes) -> Any:
    """Decoded, with every number as it is written."""
    return json.loads(body, parse_float=lambda text: ("number", text), parse_int=lambda text: ("number", text))


KEYS = st.sampled_from(["a", "b", "ab", "a.b", "é", 'q"', ",", "}", "email"])
NUMBERS = st.one_of(
    st.integers().map(str), st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"), st.just("1E-30")
)
SPACE = st.sampled_from(["", "", "", " ", "\n\t "])


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = draw(st.lists(KEYS, unique=True, max_size=5))
    escape = draw(st.booleans())
    members = [
        f"{draw(SPACE)}{json.dumps(key, ensure_ascii=escape)}{draw(SPACE)}:{draw(SPACE)}{draw(values)}{draw(SPACE)}"
        for key in keys
    ]
    return "{" + ",".join(members) + "}"


@st.composite
def lists(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    return "[" + ",".join(f"{draw(SPACE)}{each}{draw(SPACE)}" for each in draw(st.lists(values, max_size=3))) + "]"


PLAIN = st.one_of(NUMBERS, st.sampled_from(["null", "true", '""']), st.text(max_size=5).map(json.dumps))
VALUES = st.recursive(PLAIN, lambda inner: st.one_of(objects(inner), lists(inner)), max_leaves=8)


def removed(value: Any, path: list[str]) -> Any:
    """As `except` should have it, on decoded values."""
    if isinstance(value, list):
        return [removed(each, path) for each in value]
    if not isinstance(value, dict):
        return value
    dotted = ".".join(path)
    return {
        key: removed(inner, path[1:]) if key == path[0] and path[1:] else inner for key, inner in value.items() if key != dotted
    }


@pytest.mark.invariant(9)
@settings(max_examples=200, deadline=None)
@given(objects(VALUES), st.sampled_from([["a"], ["é"], ["a", "b"], ["email", "ab"], [","]]))
def test_of_any_event_only_what_is_named_goes_and_numbers_stay_as_they_were_written(properties: str, path: list[str]) -> None:
    body = f'{{"type":"track","event":"e","messageId":"m-1","properties":{properties},"context":{{"a":1}}}}'
    made = shaping(properties={"except": [".".join(path)]})(event(body))
    assert made is not None
    found, given_ = read(made.body), read(body)
    expected = given_["properties"]
    if len(path) > 1:  # below the top, dots in a key are a path's only
        expected = {key: inner for key, inner in expected.items() if key != ".".join(path)}
        expected = {key: removed(inner, path[1:]) if key == path[0] else inner for key, inner in expected.items()}
    else:
        expected = removed(expected, path)
    assert found == {**given_, "properties": expected}
    assert list(found["properties"]) == list(expected)
    if found == given_:
        assert made.body == body.encode()
    before, after = '{"type":"track","event":"e","messageId":"m-1","properties":{', ',"context":{"a":1}}'
    assert made.body.decode().startswith(before) and made.body.decode().endswith(after)


@settings(max_examples=100, deadline=None)
@given(objects(VALUES))
def test_only_and_except_divide_an_event(properties: str) -> None:
    """Each member is on one of the two sides, byte for byte; shaped again, nothing changes any more."""
    body = f'{{"type":"track","event":"e","properties":{properties}}}'
    only, rest = shaping(properties={"only": ["a", "b", "é"]}), shaping(properties={"except": ["a", "b", "é"]})
    kept, left = only(event(body)), rest(event(body))
    assert kept is not None and left is not None
    assert only(kept) is kept and rest(left) is left
    assert len(kept.body) + len(left.body) - len(body.encode()) in (
        len('{"type":"track","event":"e","properties":{}}'),
        len('{"type":"track","event":"e","properties":{}}') - 1,  # the comma between the two sides
    )


# What cannot be meant.


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"events": {"only": ["a"], "except": ["b"]}}, "takes `only` or `except`, not both"),
        ({"events": {"only": ["type:pages"]}}, "there is no call type in 'type:pages'; there are: track, identify"),
        ({"events": {"rename": {"Order *": "x"}}}, "rename takes whole names of events, not 'Order *'"),
        ({"events": {"rename": {"type:track": "x"}}}, "rename takes whole names"),
        ({"events": {"except": ["Order *"], "rename": {"Order Paid": "x"}}}, "'Order Paid' is both renamed and left out"),
        ({"events": {"only": []}}, "at least 1"),
        ({"events": {"rename": {"a": ""}}}, "at least 1"),
        ({"events": {"omit": ["a"]}}, "Extra inputs"),
        ({"properties": {"only": ["a"], "except": ["b"]}}, "takes `only` or `except`, not both"),
        ({"properties": {"rename": {"a": "x", "b": "x"}}}, "2 properties would become 'x'"),
        ({"properties": {"rename": {"a.b": "a.c"}}}, "a property stays where it is"),
        ({"properties": {"except": ["a"], "rename": {"a.b": "x"}}}, "'a.b' is both renamed and left out"),
        ({"properties": {"only": ["a"], "rename": {"b": "x"}}}, "'b' is both renamed and left out"),
        ({"properties": {"only": ["context.ip"]}}, "only `except` can name keys of the context"),
        ({"properties": {"except": ["context"]}}, "are named one by one, as `context.ip`"),
        ({"properties": {"except": ["a..b"]}}, "'a..b' is not a path"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told.replace("*", r"\*").replace(".", r"\.")):
        DestinationSettings.model_validate({"type": "x", **asked})


# Into batches.

SEGMENT = Segment("pgoutput", b"", 0, 0, START, Position(99, -1), 5, 5)


def packed(made: list[Event | Rejection], limits: Limits, route: Callable[[Event], Result] | None) -> list[PendingBatch]:
    results: list[Result] = [route(each) if route and isinstance(each, Event) else each for each in made]
    batcher = Batcher(START, limits)
    return [*batcher.add(SEGMENT, results, SEGMENT.last), batcher.close()]


def test_what_is_left_out_is_withheld_in_the_parcel_that_its_position_lies_in() -> None:
    named = ["Order Paid", "Other"]
    calls = [event(BODY.replace("Order Paid", named[n % 2]), n=n) for n in range(1, 10)]
    batches = packed([*calls], Limits(3, 10**6, 10**6), routed(events={"except": ["Other"]}))
    after = START
    for batch in batches:
        positions = [each.position for each in batch.events] + [each.position for each in batch.suppressions]
        assert all(after < position <= batch.upto for position in positions)
        assert len(batch.events) + len(batch.suppressions) <= 3
        after = batch.upto
    assert [each.position for batch in batches for each in batch.events] == [call.position for call in calls[1::2]]
    assert [each.event for batch in batches for each in batch.suppressions] == calls[::2]
    assert {each.reason for batch in batches for each in batch.suppressions} == {"not_selected"}


def test_a_parcel_counts_the_bytes_that_are_sent() -> None:
    calls = [event(n=n) for n in range(1, 5)]
    [batch] = packed([*calls], Limits(100, 10**6, 10**6), routed(properties={"only": ["id"]}))
    assert batch.size == sum(len(each.body) + 1 for each in batch.events) < sum(len(call.body) for call in calls)


def test_a_parcel_does_not_end_between_a_rejection_and_an_event_of_one_change() -> None:
    """Else its checkpoint would pass an event that is not sent yet."""
    first, second = event(n=1), event(n=2)
    rejection = Rejection("required_missing", "other", second.position, 1_000)
    for wanted in (None, routed(events={"except": ["Other"]})):
        batches = packed([first, rejection, second], Limits(1, 10**6, 10**6), wanted)
        for batch, following in pairwise(batches):
            assert all(each.position > batch.upto for each in following.events)
        assert [each for batch in batches for each in batch.events] == [first, second]
