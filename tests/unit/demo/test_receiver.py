from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cdc_tracker.demo import oracle
from cdc_tracker.demo.receiver import WRITE_KEY, Receiver


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "segment.jsonl"


@pytest.fixture
def receiver(file: Path) -> Iterator[Receiver]:
    with Receiver(file) as running:
        yield running


def _body(*ids: str) -> bytes:
    return json.dumps({"batch": [{"type": "track", "messageId": one} for one in ids], "sentAt": "2026-01-01T00:00:00Z"}).encode()


def _post(receiver: Receiver, body: bytes, *, key: str = WRITE_KEY, path: str = "/v1/batch", encoding: str = "") -> int:
    headers = {"Content-Encoding": encoding} if encoding else {}
    return httpx.post(receiver.endpoint + path, content=body, headers=headers, auth=(key, "")).status_code


def test_what_it_takes_is_in_the_file_when_it_answers(receiver: Receiver, file: Path) -> None:
    assert _post(receiver, _body("a", "b")) == 200
    assert [event["messageId"] for event in oracle.at_vendor(file).events] == ["a", "b"]


def test_it_holds_an_event_once_and_writes_down_every_repeat(receiver: Receiver, file: Path) -> None:
    _post(receiver, _body("a", "b"))
    assert _post(receiver, _body("b", "c")) == 200
    held = oracle.at_vendor(file)
    assert ([event["messageId"] for event in held.events], held.repeats, held.torn) == (["a", "b", "c"], 1, 0)


def test_it_reads_gzip(receiver: Receiver, file: Path) -> None:
    assert _post(receiver, gzip.compress(_body("a")), encoding="gzip") == 200
    assert len(oracle.at_vendor(file).events) == 1


@pytest.mark.parametrize(
    ("body", "key", "path", "status"),
    [
        (_body("a"), "wrong", "/v1/batch", 401),
        (_body("a"), WRITE_KEY, "/v2/batch", 404),
        (b'{"batch": [{"messageId"', WRITE_KEY, "/v1/batch", 400),
        (b'{"batch": [{"type": "track"}]}', WRITE_KEY, "/v1/batch", 400),
        (_body("a" * 600_000), WRITE_KEY, "/v1/batch", 400),
    ],
)
def test_what_it_refuses_it_does_not_hold(receiver: Receiver, file: Path, body: bytes, key: str, path: str, status: int) -> None:
    assert _post(receiver, body, key=key, path=path) == status
    assert oracle.at_vendor(file).events == []
