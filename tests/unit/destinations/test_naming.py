"""Texts of events as protocols take them."""

from __future__ import annotations

import uuid

import pytest

from cdc_tracker.destinations.kafka.connection import _clean
from cdc_tracker.destinations.support.name_templates import NameTemplate
from cdc_tracker.destinations.support.naming import legal_id, within
from tests.vendors.kit import event, raw_event


@pytest.mark.parametrize("text", ["", "order_17", "größe", "x" * 1_000])
def test_an_id_that_does_not_fit_becomes_a_uuid_of_its_own_and_the_same_every_time(text: str) -> None:
    made = legal_id(text, lambda _: False)
    assert str(uuid.UUID(made)) == made == legal_id(text, lambda _: False)
    assert made != legal_id(text + " ", lambda _: False)
    assert legal_id(text, lambda _: True) == text


@pytest.mark.parametrize("sign", ["x", "é", "注", "🎉"])
@pytest.mark.parametrize("limit", [60, 249, 255])
def test_a_name_within_its_bytes_stays_and_a_longer_one_is_cut_to_a_name_of_its_own(sign: str, limit: int) -> None:
    fits = sign * (limit // len(sign.encode()))
    assert within(fits, limit) == fits
    made = {within(fits + sign * more, limit) for more in range(1, 50)}
    assert len(made) == 49
    assert all(len(name.encode()) <= limit and name.startswith(fits[: limit // 8]) for name in made)


def test_a_route_keeps_to_its_limit_and_does_not_lead_two_names_to_one_place() -> None:
    route = NameTemplate("a.{type}.{event}", limit=255)
    names = [route.name(event(n, name="Order " + "注" * n)) for n in (1, 70, 100, 101, 1_000)]
    assert names[:2] == ["a.track.order_注", "a.track.order_" + "注" * 70]
    assert len(set(names)) == 5
    assert max(len(name.encode()) for name in names) <= 255


@pytest.mark.parametrize(("table", "topic"), [(".", "_"), ("..", "__"), ("a.b", "a.b"), ("größe tab", "gr__e_tab")])
def test_no_table_makes_a_topic_that_kafka_does_not_know(table: str, topic: str) -> None:
    body = f'{{"type":"track","event":"X","messageId":"m","context":{{"source":{{"schema":"s","table":"{table}"}}}}}}'
    assert NameTemplate("{table}", _clean, 249).name(raw_event(1, body)) == topic
