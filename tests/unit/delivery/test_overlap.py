"""Which rows of a table give way to what the live stream has made."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from cdc_tracker.delivery.jobs import overlap as rooms
from cdc_tracker.delivery.jobs.overlap import Overlap, Reading
from cdc_tracker.model import Event, Position


def event(message_id: str, kind: str = "track", mapping: str = "Paid", xid: int = 1, **ids: Any) -> Event:
    body = {"type": kind, "messageId": message_id, **(ids or {"userId": "u"}), "context": {"source": {"txId": xid}}}
    return Event(message_id, kind, json.dumps(body).encode(), mapping, Position(1, 0), 0)


def now(*running: int) -> Reading:
    """A reading that begins now."""
    return Reading(time.monotonic(), running)


def test_an_id_that_the_stream_has_made_gives_way_also_where_it_was_made_before_the_reading() -> None:
    seen = Overlap("Paid", "track")
    seen.note([event("a")])
    assert seen.overtaken([event("a"), event("b")], now()) == {"a"}


def test_a_change_that_makes_another_event_takes_nothing_away() -> None:
    seen = Overlap("Paid", "track")
    began = now()
    seen.note([event("x", userId="u"), event("y", "identify", "Customer", userId="u")])
    assert seen.overtaken([event("a", userId="u")], began) == set()


def test_a_later_identify_of_the_same_user_wins_whatever_mapping_made_it() -> None:
    seen = Overlap("Customer", "identify")
    began = now()
    seen.note([event("x", "identify", "Login", userId="u")])
    rows = [event(name, "identify", "Customer", userId=name) for name in ("u", "v")]
    assert seen.overtaken(rows, began) == {"u"}


def test_an_identify_from_before_the_reading_loses_unless_the_reader_could_not_see_its_transaction() -> None:
    seen = Overlap("Customer", "identify")
    seen.note([event("x", "identify", "Customer", xid=7, userId="u")])
    row = [event("a", "identify", "Customer", userId="u")]
    assert seen.overtaken(row, now()) == set()
    assert seen.overtaken(row, now(7)) == {"a"}


def test_groups_are_told_apart_from_users_and_an_anonymous_user_is_one() -> None:
    teams, people = Overlap("Team", "group"), Overlap("Customer", "identify")
    began = now()
    for seen in (teams, people):
        seen.note([event("x", "group", "Team", groupId="1", userId="2"), event("y", "identify", "Customer", anonymousId="3")])
    assert teams.overtaken([event("a", "group", "Team", groupId="1"), event("b", "group", "Team", groupId="2")], began) == {"a"}
    rows = [event("c", "identify", "Customer", anonymousId="3"), event("d", "identify", "Customer", userId="1")]
    assert people.overtaken(rows, began) == {"c"}


def test_what_no_row_can_meet_is_not_kept_and_the_rest_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Overlap("Paid", "track")
    seen.note([event(f"other-{n}", mapping="Other") for n in range(50)] + [event("i", "identify", "Customer")])
    assert seen.size == 0
    seen.note([event("a")])
    seen.forget(time.monotonic())
    assert seen.size == 1  # a transaction may take a while from its commit record to being seen
    monkeypatch.setattr(rooms, "MARGIN", 0.0)
    seen.forget(time.monotonic())
    assert seen.size == 0
