"""Names that the row chooses: all are known at load, and each works wherever an event is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdc_tracker.config.yaml_file import parse
from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.errors import InvalidRequest
from cdc_tracker.mapping import load_texts, run_examples
from cdc_tracker.mapping.schema.files import read
from cdc_tracker.model import UNLOGGED, Event, Suppression
from cdc_tracker.operations import named
from cdc_tracker.pipeline.route import route_of
from cdc_tracker.sources.postgres.values import codec
from tests.unit.mapping.shop import PATH, change, event, mappings, one, outcome, plan, problems, rejection

CHOICE = "'Plan Upgraded' if new.qty > old.qty else 'Plan Downgraded'"
TWO = one(name={"value": CHOICE}, key="plan-changed", on="update", when="changed(new.qty, old.qty)")


def test_the_row_chooses_the_name_and_the_key_stays() -> None:
    up, down = (outcome(TWO, "u", {"qty": qty}, {"qty": "2"}) for qty in ("3", "1"))
    assert isinstance(up, Event) and isinstance(down, Event)
    assert (up.decoded()["event"], down.decoded()["event"]) == ("Plan Upgraded", "Plan Downgraded")
    assert up.mapping == down.mapping == "plan-changed"
    assert up.message_id == down.message_id  # of one change: the name is no part of it
    assert list(up.decoded())[:3] == ["type", "event", "messageId"]


def test_every_name_is_known_at_load() -> None:
    [mapping] = mappings(TWO).all
    assert mapping.names == ("Plan Upgraded", "Plan Downgraded")
    assert mapping.name == "Plan Upgraded / Plan Downgraded"
    three = "'A B' if new.qty == 1 else ('C D' if new.qty == 2 else 'A B')"
    assert mappings(one(name={"value": three}, key="k")).all[0].names == ("A B", "C D")
    assert mappings(one()).all[0].names == ("Order Paid",)


@pytest.mark.parametrize(("kind", "key"), [("track", "event"), ("page", "name"), ("screen", "name")])
def test_pages_and_screens_have_names_too(kind: str, key: str) -> None:
    text = one(name={"value": "'Home \"1\"' if new.gift else 'Größe'"}, key="k", type=kind)
    assert event(text)[key] == 'Home "1"'
    assert event(text, new={"gift": None})[key] == "Größe"


def test_a_condition_that_fails_rejects_the_event_by_its_name() -> None:
    found = rejection(TWO.replace("changed(new.qty, old.qty)", "True"), "u", None, {"qty": UNLOGGED}, "d")
    assert (found.reason, found.field) == ("old_not_logged", "event")
    missing = one(name={"value": "'A B' if new.nope else 'C D'"}, key="k")
    assert rejection(missing).field == "event" and rejection(missing).reason == "column_missing"


def test_a_name_may_use_let() -> None:
    text = one(let={"up": "new.qty > old.qty"}, name={"value": "'A B' if up else 'C D'"}, key="k", on="update")
    assert event(text, "u", {"qty": "3"}, {"qty": "2"})["event"] == "A B"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": {"value": "new.status"}}, "name: must choose between texts by `if … else …`"),
        ({"name": {"value": "'A B' if new.gift else None"}}, "name: must choose between texts"),
        ({"name": {"value": "'A B' if new.gift else new.status"}}, "name: must choose between texts"),
        ({"name": {"value": "'A' + 'B'"}}, "name: must choose between texts"),
        ({"name": {"value": "new.gift and 'A B' or 'C D'"}}, "name: must choose between texts"),
        ({"name": {"value": "f'A {new.qty}'"}}, "name: must choose between texts"),
        ({"name": {"value": "'A B' if new.gift else ''"}}, "name: chooses a name that is empty or longer than 200"),
        ({"name": {"value": f"'A B' if new.gift else '{'x' * 201}'"}}, "name: chooses a name that is empty or longer than 200"),
        ({"name": {"value": CHOICE}, "key": None}, "events[0]: needs a `key`"),
        ({"name": {"value": CHOICE}, "type": "identify", "on": "update"}, "the name of an event of type identify is not sent"),
        ({"name": {"value": "'A B' if new.gift 'C D'"}}, "name.value: column"),
        ({"name": {"value": 5}}, "name.value: must be text, not 5"),
        ({"name": {"valu": "x"}}, "name.valu: is not a known key; did you mean 'value'?"),
        ({"name": {}}, "name.value: is missing"),
        ({"name": 5}, "name: must be text, not 5"),
        ({"name": ""}, "name: must have at least 1 character"),
        ({"name": ["A", "B"]}, "name: must be text"),
    ],
)
def test_a_name_that_is_not_known_at_load_is_refused(more: dict[str, Any], message: str) -> None:
    found = problems(one(**{"key": "k", **more}))
    assert any(message in each for each in found), found


def test_a_plain_name_keeps_its_meaning_whatever_it_looks_like() -> None:
    for name in (CHOICE, "'Paid'", "new.status", "{value: x}", "'A' if new.gift else 'B'"):
        text = one(name=name, on=["insert", "update"])
        assert event(text, "u")["event"] == name
        assert mappings(text).all[0].key == name


def test_an_expression_that_is_written_as_plain_text_is_a_warning() -> None:
    found: list[Any] = []
    read(parse(one(name=CHOICE), PATH), found)
    assert ("warning", "events[0].name", "is sent as it is written") in [(p.severity, p.key, p.message) for p in found]
    found.clear()
    read(parse(one(name={"value": "'plan up' if new.gift else 'Plan Down'"}, key="k"), PATH), found)
    assert [p.message for p in found] == ["'plan up' does not have the form `Object Action`, such as Order Paid"]


def test_examples_and_destinations_select_each_name() -> None:
    text = json.loads(TWO)
    text["events"][0]["examples"] = [
        {"old": {"qty": 1}, "new": {"qty": 2, "user_id": 3}, "event": {"event": "Plan Upgraded"}},
        {"old": {"qty": 3}, "new": {"qty": 2, "user_id": 3}, "event": {"event": "Plan Downgraded"}},
        {"old": {"qty": 2}, "new": {"qty": 2, "user_id": 3}, "no_event": True},
    ]
    assert all(result.passed for result in run_examples(load_texts({"plans.yml": json.dumps(text)}), codec))
    step = route_of(
        DestinationSettings.model_validate(
            {"type": "x", "events": {"only": ["Plan Upgraded"], "rename": {"Plan Upgraded": "up"}}}
        )
    )
    made = plan(TWO)
    up, down = (change(made, "u", {"qty": qty}, {"qty": "2"}) for qty in ("3", "1"))
    events = [made.by_op["u"][0](each) for each in (up, down)]
    assert step is not None
    kept, left = (step(each, up) for each in events if isinstance(each, Event))
    assert isinstance(kept, Event) and kept.decoded()["event"] == "up"
    assert isinstance(left, Suppression) and left.reason == "not_selected"


@pytest.mark.parametrize("name", ["Plan Upgraded", "Plan Downgraded", "plan-changed"])
def test_commands_find_the_mapping_by_each_name(name: str) -> None:
    assert named.events(mappings(TWO).all, [name]) == ["plan-changed"]
    with pytest.raises(InvalidRequest, match="Plan Upgraded"):
        named.events(mappings(TWO).all, ["Plan Upgradet"])
