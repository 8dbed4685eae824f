"""Segment, RudderStack and Jitsu: one API, three ways to answer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.registry import load
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import Batch, Event, Outcome, Position, Receipt
from tests.proxy import closed_proxy
from tests.vendors.jitsu import JitsuServer
from tests.vendors.kit import made
from tests.vendors.rudderstack import RudderstackServer
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer, Drop

KEY = "wk/3f9+0c"
QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)
ASSUMED, REJECTED = Outcome.ASSUMED, Outcome.REJECTED


@pytest.fixture
def vendor() -> Iterator[SegmentServer]:
    with SegmentServer(write_key=KEY) as running:
        yield running


@pytest.fixture
def segment(vendor: SegmentServer) -> Iterator[Destination]:
    destination = opened("segment", endpoint=vendor.url)
    yield destination
    destination.close()


@pytest.fixture
def plane() -> Iterator[RudderstackServer]:
    with RudderstackServer(write_key=KEY) as running:
        yield running


@pytest.fixture
def rudderstack(plane: RudderstackServer) -> Iterator[Destination]:
    destination = opened("rudderstack", data_plane=plane.url)
    yield destination
    destination.close()


@pytest.fixture
def ingest() -> Iterator[JitsuServer]:
    with JitsuServer(write_key=KEY) as running:
        yield running


@pytest.fixture
def jitsu(ingest: JitsuServer) -> Iterator[Destination]:
    destination = opened("jitsu", endpoint=ingest.url)
    yield destination
    destination.close()


def opened(kind: str, **settings: Any) -> Destination:
    return made(kind, Path(), write_key=KEY, **settings)()


def event(n: int, who: str = '"userId":"3",', kind: str = "track", name: str = "id-") -> Event:
    body = f'{{"type":"{kind}","event":"Paid","messageId":"{name}{n}",{who}"properties":{{"x":"yyyyyyyyyy"}}}}'
    return Event(f"{name}{n}", kind, body.encode(), "m", Position(100, n), 0)


def batch(events: list[Event]) -> Batch:
    return Batch(events, Position(500, -1))


def deliver(destination: Destination, events: list[Event]) -> tuple[list[Receipt], list[CdcTrackerError]]:
    troubles: list[CdcTrackerError] = []
    return send(destination, batch(events), stop=lambda: False, on_trouble=troubles.append, backoff=QUICK), troubles


def outcomes(receipts: list[Receipt]) -> list[Outcome]:
    return [receipt.outcome for receipt in receipts]


# Segment.


def test_the_body_is_made_of_the_events_own_bytes(vendor: SegmentServer, segment: Destination) -> None:
    events = [event(n) for n in range(3)]
    segment.deliver(batch(events))
    assert vendor.requests[0].body.startswith(b'{"batch":[' + b",".join(one.body for one in events) + b'],"sentAt":"')
    assert [vendor.events[one.message_id] for one in events] == [one.body for one in events]


def test_compressed_it_is_smaller_and_says_the_same(vendor: SegmentServer) -> None:
    destination = opened("segment", endpoint=vendor.url, compression="gzip")
    destination.deliver(batch([event(n) for n in range(500)]))
    assert len(vendor.events) == 500
    assert vendor.requests[0].wire_bytes * 5 < len(vendor.requests[0].body)
    destination.close()


def test_what_segment_drops_silently_is_assumed_not_delivered(vendor: SegmentServer, segment: Destination) -> None:
    vendor.answers(Drop(lambda one: one["messageId"] == "id-1"))
    assert outcomes(deliver(segment, [event(n) for n in range(3)])[0]) == [ASSUMED] * 3
    assert list(vendor.events) == ["id-0", "id-2"]


def test_what_segment_is_known_to_drop_is_refused_here(vendor: SegmentServer, segment: Destination) -> None:
    events = [event(0), event(1, who=""), event(3, who='"anonymousId":"a",')]
    receipts, _ = deliver(segment, events)
    assert [receipt.reason for receipt in receipts] == ["", "identity_missing", ""]
    assert list(vendor.events) == ["id-0", "id-3"]
    assert vendor.dropped == 0


def test_an_event_goes_under_an_id_made_of_its_own_where_segment_would_drop_that(
    vendor: SegmentServer, segment: Destination
) -> None:
    long = event(2, name="x" * 99)
    for _ in range(2):
        assert outcomes(segment.deliver(batch([event(1, name="x" * 98), long]))) == [ASSUMED] * 2
    kept, made = vendor.events
    assert kept == "x" * 98 + "1"
    assert str(uuid.UUID(made)) == made
    assert vendor.events[made] == long.body.replace(long.message_id.encode(), made.encode())
    assert (vendor.repeated, vendor.dropped) == (2, 0)


def test_a_batch_of_refused_events_is_no_request(vendor: SegmentServer, segment: Destination) -> None:
    assert outcomes(segment.deliver(batch([event(0, who="")]))) == [REJECTED]
    assert vendor.requests == []


def test_a_wrong_key_blocks_until_it_is_right(vendor: SegmentServer, segment: Destination) -> None:
    vendor.answers(Answer(401), Answer(401))
    receipts, troubles = deliver(segment, [event(0), event(1)])
    assert outcomes(receipts) == [ASSUMED] * 2
    assert [type(trouble) for trouble in troubles] == [DestinationBlocked] * 2


@pytest.mark.parametrize(("region", "host"), [("us", "api.segment.io"), ("eu", "events.eu1.segmentapis.com")])
def test_the_region_names_the_host(region: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_proxy(monkeypatch) as asked:
        destination = opened("segment", region=region)
        with pytest.raises(CdcTrackerError, match=f"https://{host}"):
            destination.deliver(batch([event(0)]))
        destination.close()
    assert asked == [host]


def test_settings_of_its_relatives_are_gone_from_segment() -> None:
    for key, value in (("auth", "x-write-key"), ("path", "/v1/batch")):
        with pytest.raises(ValidationError, match=key):
            load("segment").Settings.model_validate({"type": "segment", "write_key": KEY, key: value})


# RudderStack.


def test_an_event_of_nobody_is_found_although_the_whole_batch_is_refused(
    plane: RudderstackServer, rudderstack: Destination
) -> None:
    events = [event(0), event(1), event(2, who='"userId":"",'), event(3), event(4, who="")]
    receipts, _ = deliver(rudderstack, events)
    assert outcomes(receipts) == [ASSUMED, ASSUMED, REJECTED, ASSUMED, REJECTED]
    assert (receipts[2].reason, receipts[4].reason) == ("refused", "identity_missing")
    assert "neither has anonymousId nor userId" in receipts[2].detail
    assert list(plane.events) == ["id-0", "id-1", "id-3"]


def test_a_disabled_source_blocks_until_it_is_enabled(plane: RudderstackServer, rudderstack: Destination) -> None:
    plane.disabled = True
    with pytest.raises(DestinationBlocked, match="Source is disabled") as caught:
        rudderstack.deliver(batch([event(0)]))
    assert "disabled" in caught.value.hint
    plane.disabled = False
    assert outcomes(rudderstack.deliver(batch([event(0)]))) == [ASSUMED]


def test_a_batch_above_the_data_planes_own_limit_goes_in_parts() -> None:
    with RudderstackServer(write_key=KEY, batch_bytes=1_000) as plane:
        destination = opened("rudderstack", data_plane=plane.url)
        assert outcomes(deliver(destination, [event(n) for n in range(40)])[0]) == [ASSUMED] * 40
        assert list(plane.events) == [f"id-{n}" for n in range(40)]
        destination.close()


def test_a_request_takes_4000_kib_and_is_compressed(plane: RudderstackServer, rudderstack: Destination) -> None:
    assert 4_000 * 1024 - 100 < rudderstack.limits.batch_bytes < 4_000 * 1024
    rudderstack.deliver(batch([event(0)]))
    assert plane.requests[0].headers["content-encoding"] == "gzip"
    assert b"sentAt" not in plane.requests[0].body


# Jitsu.


def test_jitsu_names_what_it_does_not_take(ingest: JitsuServer, jitsu: Destination) -> None:
    events = [event(0), event(1, kind="tarck"), event(2), event(3, who="")]
    receipts, _ = deliver(jitsu, events)
    assert outcomes(receipts) == [ASSUMED, REJECTED, ASSUMED, ASSUMED]
    assert receipts[1] == Receipt(REJECTED, "refused", detail="Unknown event type: tarck")
    assert list(ingest.events) == ["id-0", "id-2", "id-3"]
    assert len(ingest.requests) == 1
    assert ingest.requests[0].headers["x-write-key"] == KEY


def test_an_id_that_jitsu_cuts_is_found_in_its_answer(ingest: JitsuServer, jitsu: Destination) -> None:
    receipts, _ = deliver(jitsu, [event(0), event(1, kind="tarck", name="größe/" + "x" * 80)])
    assert outcomes(receipts) == [ASSUMED, REJECTED]


def test_of_events_whose_ids_jitsu_cuts_to_the_same_only_the_one_at_fault_is_rejected(
    ingest: JitsuServer, jitsu: Destination
) -> None:
    events = [event(0, name="größe "), event(0, kind="tarck", name="grö?e "), event(0, name="grö/e_")]
    receipts, _ = deliver(jitsu, events)
    assert outcomes(receipts) == [ASSUMED, REJECTED, ASSUMED]
    assert set(ingest.events) == {"größe 0", "grö/e_0"}


def test_a_name_that_jitsu_finds_too_long_is_rejected_in_its_words(ingest: JitsuServer, jitsu: Destination) -> None:
    long = event(1)
    body = long.body.replace(b"Paid", b"x" * 129)
    receipts, _ = deliver(jitsu, [event(0), Event(long.message_id, "track", body, "m", Position(100, 1), 0), event(2)])
    assert outcomes(receipts) == [ASSUMED, REJECTED, ASSUMED]
    assert "Invalid track event name" in receipts[1].detail


def test_what_is_over_the_quota_goes_again(ingest: JitsuServer, jitsu: Destination) -> None:
    ingest.quota = {"id-1"}
    receipts = jitsu.deliver(batch([event(n) for n in range(3)]))
    assert outcomes(receipts) == [ASSUMED, Outcome.RETRY, ASSUMED]
    assert "quota exceeded" in receipts[1].reason


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b'{"error":"stream not found: for: [slug: s]"}', DestinationBlocked, "took nothing: stream not found"),
        (b'{"ok":false,"receivedEvents":1,"okEvents":0,"errors":["oh"]}', DestinationUnavailable, "names no event: oh"),
        (
            b'{"receivedEvents":1,"errors":["Message ID: id-9: event error: x"]}',
            DestinationUnavailable,
            "events that were not sent",
        ),
        (b'{"receivedEvents":1,"errors":["Message ID: id-0: error# 7: producer error"]}', None, "producer error"),
    ],
)
def test_a_200_that_says_no_is_not_taken_for_a_yes(
    answer: bytes, error: type[CdcTrackerError] | None, words: str, ingest: JitsuServer, jitsu: Destination
) -> None:
    ingest.answers(Answer(body=answer))
    if error is None:
        [receipt] = jitsu.deliver(batch([event(0)]))
        assert receipt.outcome is Outcome.RETRY
        assert words in receipt.reason
        return
    with pytest.raises(error, match=words) as caught:
        jitsu.deliver(batch([event(0)]))
    assert type(caught.value) is error


@pytest.mark.parametrize("old", [False, True])
def test_an_unknown_write_key_blocks_in_old_and_new_versions(old: bool) -> None:
    with JitsuServer(write_key="another") as ingest:
        ingest.old = old
        destination = opened("jitsu", endpoint=ingest.url)
        with pytest.raises(DestinationBlocked, match="stream not found"):
            destination.deliver(batch([event(0)]))
        destination.close()


def test_jitsus_answer_that_cannot_be_read_does_not_make_events_go_again(ingest: JitsuServer, jitsu: Destination) -> None:
    ingest.answers(Answer(body=b"<html>"))
    receipts, troubles = deliver(jitsu, [event(0), event(1)])
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [(Outcome.ASSUMED, "answer_unreadable")] * 2
    assert troubles == []


def test_a_source_without_destinations_blocks_until_it_has_one(ingest: JitsuServer, jitsu: Destination) -> None:
    ingest.connected = False
    with pytest.raises(DestinationBlocked, match="no destination") as caught:
        jitsu.deliver(batch([event(0)]))
    assert "connect a destination" in caught.value.hint
    assert ingest.events == {}


def test_no_time_of_sending_goes_to_jitsu_because_it_moves_timestamps(ingest: JitsuServer, jitsu: Destination) -> None:
    jitsu.deliver(batch([event(0)]))
    jitsu.deliver(batch([event(0)]))
    assert len({request.body for request in ingest.requests}) == 1


@pytest.mark.parametrize(("kind", "key"), [("rudderstack", "data_plane"), ("jitsu", "endpoint")])
def test_an_address_that_is_none_is_refused(kind: str, key: str) -> None:
    with pytest.raises(ValidationError, match="must be a URL"):
        load(kind).Settings.model_validate({"type": kind, "write_key": KEY, key: "host"})


@pytest.mark.parametrize("kind", ["segment", "rudderstack", "jitsu"])
def test_no_key_is_in_any_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with SegmentServer(write_key=KEY) as vendor:
        destination = opened(kind, **{"data_plane" if kind == "rudderstack" else "endpoint": vendor.url})
        texts = [repr(destination)]
        for status in (400, 401, 404, 500):
            vendor.answers(Answer(status, f"the key {KEY} is not it".encode()))
            with pytest.raises(CdcTrackerError) as caught:
                destination.deliver(batch([event(0)]))
            texts += [str(caught.value), caught.value.hint]
        destination.close()
    assert KEY not in "".join([*texts, caplog.text])
    assert "***" in "".join(texts)
