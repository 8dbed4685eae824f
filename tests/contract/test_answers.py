"""What each answer of a vendor leads to: every one is played by the vendor's server, over a real connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest

from cdc_tracker.delivery.sender import Backoff, Interrupted, send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import Event, Outcome, Receipt
from tests.contract.kits import DEFERRING, HTTP, NAMING
from tests.vendors.kit import Kit, Opener, batch, event, raw_event
from tests.vendors.server import Answer, Cut, Request, Script, Slow, VendorServer, Where

QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)
FINAL = {Outcome.DELIVERED, Outcome.ASSUMED}
WARM = 900  # the event that goes first, so that what a destination asks once about its vendor has been asked

every_http = pytest.mark.parametrize("kit", HTTP, indirect=True)


@pytest.fixture
def vendor(kit: Kit) -> VendorServer:
    assert kit.server is not None
    return kit.server


@pytest.fixture
def warm(kit: Kit, vendor: VendorServer, destination: Destination) -> Iterator[Destination]:
    destination.deliver(batch([event(WARM)]))
    vendor.requests.clear()
    yield destination


def of_one(count: int, start: int = 0) -> list[Event]:
    """Events of one user, which every vendor takes in one request if it takes several at all."""
    made = [event(n, note=f"mark-{n}-") for n in range(start, start + count)]
    return [raw_event(n, one.body.decode().replace(f"user-{n % 7}", "user-1")) for n, one in enumerate(made, start)]


def settled(destination: Destination, made: list[Event]) -> tuple[list[Receipt], list[CdcTrackerError]]:
    troubles: list[CdcTrackerError] = []
    receipts = send(destination, batch(made), stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
    return receipts, troubles


def held(kit: Kit) -> list[str]:
    return [call["messageId"] for call in kit.held() if call["messageId"] != event(WARM).message_id]


def ids(made: list[Event]) -> list[str]:
    return [one.message_id for one in made]


def bodies(kit: Kit, vendor: VendorServer) -> list[bytes]:
    return [re.sub(kit.varies.encode(), b"", request.body) for request in vendor.requests]


def mentions(*marks: int) -> Callable[[Request], bool]:
    return lambda request: any(b"mark-%d-" % mark in request.body for mark in marks)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": formatdate(1_000_000_090, usegmt=True), "Date": formatdate(1_000_000_000, usegmt=True)}, 90.0),
    ],
    ids=["seconds", "date"],
)
@pytest.mark.parametrize("status", [429, 503])
@every_http
def test_the_vendor_is_waited_for_as_long_as_it_asks(
    status: int, headers: dict[str, str], seconds: float, warm: Destination, kit: Kit, vendor: VendorServer
) -> None:
    vendor.answers(Answer(status, headers=headers))
    made = of_one(4)
    receipts, [trouble] = settled(warm, made)
    assert isinstance(trouble, DestinationUnavailable)
    assert trouble.retry_after == seconds
    assert {receipt.outcome for receipt in receipts} <= FINAL
    assert held(kit) == ids(made)


@every_http
def test_the_wait_counts_as_well_where_a_part_was_taken(warm: Destination, kit: Kit, vendor: VendorServer) -> None:
    """A batch may take several requests."""
    made = [event(n) for n in range(4)]
    vendor.answers(None, Answer(429, headers={"Retry-After": "7"}))
    _, troubles = settled(warm, made)
    assert [getattr(trouble, "retry_after", None) for trouble in troubles] in ([], [7.0])
    assert bool(troubles) is (len({request.body for request in vendor.requests}) > 1)
    vendor.answers(None)
    settled(warm, [event(50)])
    assert sorted(held(kit)) == ids([*made, event(50)])


@every_http
def test_what_is_too_large_goes_in_parts_until_it_fits(warm: Destination, kit: Kit, vendor: VendorServer) -> None:
    def is_large(request: Request) -> bool:
        return len(re.findall(rb"mark-\d+-", request.body)) > 3

    vendor.always(Where(is_large, Answer(413, b"too large")))
    made = of_one(16)
    receipts, _ = settled(warm, made)
    assert {receipt.outcome for receipt in receipts} <= FINAL
    assert held(kit) == ids(made)


@every_http
def test_an_event_that_is_too_large_alone_is_rejected_and_the_others_go_on(
    warm: Destination, kit: Kit, vendor: VendorServer
) -> None:
    vendor.always(Where(mentions(5), Answer(413, b"beyond all bounds")))
    made = of_one(9)
    receipts, _ = settled(warm, made)
    assert [receipt.reason for receipt in receipts] == ["too_large" if n == 5 else "" for n in range(9)]
    assert "beyond all bounds" in receipts[5].detail
    assert held(kit) == [one.message_id for n, one in enumerate(made) if n != 5]


@every_http
def test_what_an_unexplained_400_minds_is_found_and_rejected_in_the_vendors_words(
    warm: Destination, kit: Kit, vendor: VendorServer
) -> None:
    vendor.always(Where(mentions(2, 11), Answer(400, b"the colour is wrong")))
    made = of_one(16)
    receipts, _ = settled(warm, made)
    assert {n for n, receipt in enumerate(receipts) if receipt.outcome is Outcome.REJECTED} == {2, 11}
    for n in (2, 11):
        assert receipts[n].reason == "refused"
        assert "the colour is wrong" in receipts[n].detail
    assert held(kit) == [one.message_id for n, one in enumerate(made) if n not in (2, 11)]


@pytest.mark.parametrize("status", [401, 403])
@every_http
def test_credentials_that_are_refused_block_until_they_are_right_again(
    status: int, warm: Destination, kit: Kit, vendor: VendorServer
) -> None:
    vendor.answers(*[Answer(status, b"who are you?")] * 3)
    made = of_one(5)
    receipts, troubles = settled(warm, made)
    assert [type(trouble) for trouble in troubles] == [DestinationBlocked] * 3
    assert all("who are you?" in str(trouble) and trouble.hint for trouble in troubles)
    assert {receipt.outcome for receipt in receipts} <= FINAL
    assert held(kit) == ids(made)
    assert len(set(bodies(kit, vendor))) in (1, 5)


@every_http
def test_a_key_that_the_vendor_does_not_know_blocks_and_parks_nothing(kit: Kit, vendor: VendorServer) -> None:
    assert isinstance(kit.open, Opener)
    troubles: list[CdcTrackerError] = []
    stranger = kit.open.changed(**kit.stranger)()
    if not kit.stranger:
        assert stranger.guarantee == "at least once"  # GA4 answers 2xx to any key, and a collector knows no keys
        stranger.close()
        return
    with pytest.raises(Interrupted) as caught:
        send(stranger, batch(of_one(5)), stop=lambda: len(troubles) > 2, on_trouble=troubles.append, backoff=QUICK)
    stranger.close()
    assert caught.value.receipts == [None] * 5
    assert {type(trouble) for trouble in troubles} == {DestinationBlocked}
    assert all(trouble.hint for trouble in troubles)
    assert kit.held() == []


FAULTS: list[Script] = [
    Answer(500),
    Answer(500, taken=True),
    Cut(after_body=False),
    Answer(502, b"<html>bad gateway</html>"),
    Cut(),
    Answer(503),
    Cut(taken=True),
    Answer(504, taken=True),
    Answer(408),
]


@every_http
def test_faults_are_met_with_the_same_bytes_until_they_are_over(warm: Destination, kit: Kit, vendor: VendorServer) -> None:
    made = of_one(6)
    vendor.answers(*FAULTS * 2)
    receipts, troubles = settled(warm, made)
    assert len(troubles) == 2 * len(FAULTS)
    assert {type(trouble) for trouble in troubles} == {DestinationUnavailable}
    assert {receipt.outcome for receipt in receipts} <= FINAL
    found = held(kit)
    assert list(dict.fromkeys(found)) == ids(made)
    assert kit.keeps_repeats or len(found) == len(made)
    for one in made:
        mark = b"mark-%d-" % one.decoded()["properties"]["order_id"]
        assert len({body for body in bodies(kit, vendor) if mark in body}) == 1


@every_http
def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(kit: Kit, vendor: VendorServer) -> None:
    assert isinstance(kit.open, Opener)
    destination = kit.open.changed(timeout="150ms")()
    destination.deliver(batch([event(WARM)]))
    made = of_one(3)
    vendor.answers(Slow(30))
    receipts, [trouble] = settled(destination, made)
    destination.close()
    assert "no answer" in str(trouble)
    assert {receipt.outcome for receipt in receipts} <= FINAL
    assert held(kit) == ids(made)


@pytest.mark.parametrize("kit", NAMING, indirect=True)
def test_an_event_that_the_vendor_refuses_by_name_is_rejected_for_its_reason(warm: Destination, kit: Kit) -> None:
    assert kit.refuse is not None
    made = of_one(9)
    for n in (3, 7):
        kit.refuse(made[n], f"wrong_colour_{n}")
    receipts, _ = settled(warm, made)
    assert {n for n, receipt in enumerate(receipts) if receipt.outcome is Outcome.REJECTED} == {3, 7}
    for n in (3, 7):
        assert f"wrong_colour_{n}" in f"{receipts[n].reason} {receipts[n].field} {receipts[n].detail}"
    assert held(kit) == [one.message_id for n, one in enumerate(made) if n not in (3, 7)]


@pytest.mark.parametrize("kit", DEFERRING, indirect=True)
def test_only_what_the_vendor_puts_off_goes_again(warm: Destination, kit: Kit, vendor: VendorServer) -> None:
    assert kit.throttle is not None
    made = [event(n, note=f"mark-{n}-") for n in range(7)]  # each of another user
    kit.throttle(made[4])
    troubles: list[CdcTrackerError] = []

    def heard(trouble: CdcTrackerError) -> None:
        troubles.append(trouble)
        kit.relieve()

    receipts = send(warm, batch(made), stop=lambda: False, on_trouble=heard, backoff=QUICK)
    assert len(troubles) == 1
    assert {receipt.outcome for receipt in receipts} <= FINAL
    assert re.findall(rb"mark-(\d)-", vendor.requests[-1].body) == [b"4"]
    assert sorted(held(kit)) == ids(made)
    assert vendor.summary().get("repeated", 0) == 0


@every_http
def test_an_event_above_the_limit_is_never_sent(warm: Destination, kit: Kit, vendor: VendorServer) -> None:
    made = [*of_one(2), event(2, note="mark-2-" + "x" * warm.limits.event_bytes)]
    receipts, _ = settled(warm, made)
    assert [receipt.reason for receipt in receipts] == ["", "", "event_too_large"]
    assert held(kit) == ids(made[:2])
    assert not any(b"mark-2-" in body for body in bodies(kit, vendor))
