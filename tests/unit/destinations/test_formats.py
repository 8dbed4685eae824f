"""Destinations that take events or raw changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cdc_tracker.destinations import registry
from cdc_tracker.destinations.base import NOTHING_MORE, DestinationSettings, Requirements
from cdc_tracker.destinations.jsonl import JsonlDestination, JsonlSettings
from cdc_tracker.destinations.support.name_templates import NameTemplate
from cdc_tracker.model import DELIVERED, RAW, Batch, Event, Position

BODY = b'{"before":null,"after":{"id":7},"source":{"schema":"shop","table":"orders"},"op":"c","ts_ms":1}'
CHANGE = Event("id-1", RAW, BODY, "raw:shop.orders", Position(1, 0), 0)
OTHERS: dict[str, dict[str, Any]] = {
    "jsonl": {"path": "out/"},
    "redis": {"url": "redis://host", "stream": "{schema}.{table}"},
    "rabbitmq": {"url": "amqp://host", "routing_key": "{schema}.{table}"},
    "nats": {"url": "nats://host", "subject": "shop.{table}"},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_raw_changes_are_wanted_where_the_format_says_so(kind: str) -> None:
    model = registry.load(kind).Settings
    assert model.model_validate({"type": kind, **OTHERS[kind]}).requirements == NOTHING_MORE
    assert model.model_validate({"type": kind, **OTHERS[kind], "format": "debezium"}).requirements == Requirements(raw=True)
    with pytest.raises(ValidationError, match="`properties` chooses among events"):
        model.model_validate({"type": kind, **OTHERS[kind], "format": "debezium", "properties": {"only": ["a"]}})


@pytest.mark.parametrize(("kind", "setting"), [("redis", "stream"), ("rabbitmq", "routing_key"), ("nats", "subject")])
def test_a_name_made_of_what_only_events_have_is_refused(kind: str, setting: str) -> None:
    with pytest.raises(ValidationError, match=f"`{setting}`: a raw change has no `{{type}}`"):
        registry.load(kind).Settings.model_validate({"type": kind, **OTHERS[kind], setting: "x.{type}", "format": "debezium"})


@pytest.mark.parametrize("kind", sorted(set(registry.names()) - set(OTHERS) - {"kafka"}))
def test_no_other_destination_is_given_raw_changes(kind: str) -> None:
    assert "format" not in registry.load(kind).Settings.model_fields or kind in ("parquet", "webhook")
    assert registry.load(kind).Settings.requirements is DestinationSettings.requirements


def test_a_raw_change_is_routed_by_its_table() -> None:
    assert NameTemplate("a.{schema}.{table}").name(CHANGE) == "a.shop.orders"


def test_jsonl_writes_the_envelope_as_it_is(tmp_path: Path) -> None:
    destination = JsonlDestination("raw", JsonlSettings(path="out/", format="debezium"), tmp_path)
    assert destination.deliver(Batch([CHANGE], CHANGE.position)) == [DELIVERED]
    destination.close()
    [written] = (tmp_path / "out").glob("*.jsonl")
    assert written.read_bytes() == BODY + b"\n"
