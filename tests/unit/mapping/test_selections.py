"""Names in the settings of destinations that no mapping declares."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdc_tracker.config.destination import DestinationSettings
from cdc_tracker.mapping.lints import selections
from tests.unit.mapping.shop import mappings

EVENTS: list[dict[str, Any]] = [
    {
        "name": "Order Paid",
        "table": "shop.orders",
        "user_id": "new.user_id",
        "properties": {
            "email": {"value": "new.email", "pii": True},
            "address": {"properties": {"city": "new.note", "zip": {"properties": {"code": "new.note"}}}},
            "lines": {"value": "new.items", "type": "array"},
            "a.b": "new.note",
        },
        "context": {"page": {"properties": {"url": "new.note"}}, "campaign": "new.items"},
    },
    {"name": "User Known", "type": "identify", "table": "shop.users", "user_id": "new.id", "traits": {"plan": "new.plan"}},
    {
        "name": {"value": "'Plan Raised' if new.plan > old.plan else 'Plan Lowered'"},
        "key": "plan",
        "on": "update",
        "table": "shop.users",
        "user_id": "new.id",
        "properties": {"address": "new.address", "seats": "new.seats"},
        "destinations": ["other"],
    },
]


def told(setting: dict[str, Any], destination: str = "other", *, outbox: bool = False) -> list[str]:
    loaded = mappings(json.dumps({"version": 1, "events": EVENTS}))
    given = {destination: DestinationSettings.model_validate({"type": "memory", **setting})}
    found = list(selections(given, loaded, outbox=outbox))
    assert {problem.severity for problem in found} <= {"warning"}
    return [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"properties": {"except": ["emial"]}}, "properties.except: no mapping has a property 'emial'; did you mean 'email'?"),
        ({"properties": {"only": ["mail_address"]}}, "properties.only: no mapping has a property 'mail_address'"),
        (
            {"properties": {"rename": {"eMail": "mail"}}},
            "properties.rename: no mapping has a property 'eMail'; did you",
        ),
        ({"properties": {"except": ["lnes.sku"]}}, "no mapping has a property 'lnes.sku'"),
        ({"properties": {"except": ["context.pgae"]}}, "'context.pgae'; did you mean 'context.page'?"),
        ({"properties": {"except": ["context.page.uri"]}}, "'context.page.uri'; did you mean 'context.page.url'?"),
        ({"events": {"only": ["Order Piad"]}}, "events.only: no mapping has an event 'Order Piad'; did you mean 'Order Paid'?"),
        (
            {"events": {"except": ["order paid"]}},
            "events.except: no mapping has an event 'order paid'; did you",
        ),
        ({"events": {"only": ["Ordr *", "Plan *"]}}, "no mapping has an event 'Ordr *'"),
        ({"events": {"rename": {"Plan Rised": "Upgraded"}}}, "'Plan Rised'; did you mean 'Plan Raised'?"),
    ],
)
def test_a_name_that_no_mapping_has_is_told_with_the_nearest(setting: dict[str, Any], words: str) -> None:
    [found] = told(setting)
    assert found.startswith("destinations.other: ")
    assert words in found
    assert "outbox" not in found
    [found] = told(setting, outbox=True)
    assert "Leave it if only events of the outbox have it." in found


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"properties": {"except": ["email", "plan", "address", "address.zip.code", "a.b", "lines.sku.whatever"]}},
        {"properties": {"only": ["address.street"]}},  # of the other mapping's expression
        {"properties": {"except": ["context.page.url", "context.campaign.name", "context.source.lsn", "context.library"]}},
        {"properties": {"rename": {"email": "mail", "address.city": "town"}}},
        {"events": {"only": ["Order *", "Plan Raised", "type:identify", "*"]}},
        {"events": {"except": ["type:alias", "User Known"]}},
        {"events": {"rename": {"Plan Lowered": "Downgraded"}}},
    ],
)
def test_names_that_some_mapping_has_are_fine(setting: dict[str, Any]) -> None:
    assert told(setting) == []


def test_only_events_that_go_to_the_destination_count() -> None:
    assert told({"events": {"only": ["Plan *"]}}) == []
    [found] = told({"events": {"only": ["Plan *"]}}, "hook")
    assert "no mapping has an event 'Plan *'; there are: Order Paid, User Known" in found
    [found] = told({"properties": {"except": ["seats"]}}, "hook")
    assert "'seats'" in found


def test_a_destination_of_the_outbox_alone_is_not_asked_for_names_of_mappings() -> None:
    given = {"hook": DestinationSettings.model_validate({"type": "memory", "events": {"only": ["Anything"]}})}
    assert list(selections(given, mappings(json.dumps({"version": 1, "events": []})), outbox=True)) == []
