"""The health port answers, whatever its clients and the stores do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdc_tracker.errors import ConfigError, StateUnavailable
from cdc_tracker.journal import Journal
from cdc_tracker.monitoring import Health, Observer
from cdc_tracker.monitoring import server as server_module
from cdc_tracker.monitoring.server import CLIENTS, HealthServer
from cdc_tracker.state import RoleEnds, State, SupervisorReport, report_type
from tests.worker import until


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[Observer]:
    with (
        State.open(f"sqlite:///{tmp_path}/state.sqlite") as state,
        Journal.open(f"sqlite:///{tmp_path}/journal.sqlite", "main") as journal,
    ):
        yield Observer(state, journal, "main", ["events"], tmp_path)


@pytest.fixture
def port(observer: Observer) -> Iterator[HealthServer]:
    with closing(HealthServer("127.0.0.1", 0, observer, lambda: True)) as made:
        yield made


def url(port: HealthServer, path: str) -> str:
    return f"http://127.0.0.1:{port.port}{path}"


def connected(port: HealthServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port.port), timeout=20)


def answered(port: HealthServer, request: bytes) -> bytes:
    """All that comes until the server closes."""
    with connected(port) as client:
        client.sendall(request)
        received = b""
        while part := client.recv(1 << 16):
            received += part
        return received


def test_each_page_answers_get_and_head_with_and_without_a_query(port: HealthServer) -> None:
    for path, status in (("/healthz", 200), ("/readyz", 503), ("/metrics", 200)):
        got = httpx.get(url(port, f"{path}?verbose=1&x=%20"))
        head = httpx.head(url(port, path))
        assert (got.status_code, head.status_code) == (status, status) and got.content and not head.content
        assert int(head.headers["content-length"]) > 0
    assert httpx.get(url(port, "/")).status_code == httpx.get(url(port, "/metrics/x")).status_code == 404
    assert [httpx.request(method, url(port, "/readyz")).status_code for method in ("POST", "PUT", "DELETE", "OPTIONS")] == [
        405
    ] * 4
    body = httpx.get(url(port, "/readyz")).json()
    assert not body["ready"] and "capture is gone: it has never run" in body["problems"]
    assert {each["severity"] for each in body["findings"]} == {"error"} and all(each["hint"] for each in body["findings"])


def test_a_role_that_stopped_is_told_since_then_and_not_since_it_was_last_idle(observer: Observer, tmp_path: Path) -> None:
    with State.open(f"sqlite:///{tmp_path}/state.sqlite") as state:
        for name in ("capture", "deliver:events"):
            state.reports.save("main", name, 1, "stopped", report_type(name)(since=7))
        stopped_at = {role.updated_at for role in state.reports.all("main")}
    found = {each.since for each in observer.look().findings if each.since}
    assert found == stopped_at


def test_the_supervisor_s_ends_are_counted_from_none_on(observer: Observer, port: HealthServer, tmp_path: Path) -> None:
    ends = 'cdc_tracker_role_ends_total{role="supervisor"}'
    assert ends not in httpx.get(url(port, "/metrics")).text  # nothing is known of it yet
    with State.open(f"sqlite:///{tmp_path}/state.sqlite") as state:
        for ever, roles in ((0, {"capture": RoleEnds()}), (2, {"supervisor": RoleEnds(ends_ever=2)})):
            state.reports.save("main", "supervisor", 1, "running", SupervisorReport(roles=roles))
            assert f"{ends} {ever}.0" in httpx.get(url(port, "/metrics")).text


def test_several_requests_go_over_one_connection(port: HealthServer) -> None:
    with httpx.Client() as client:
        assert [client.get(url(port, "/healthz")).status_code for _ in range(5)] == [200] * 5
    two = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"HEAD /healthz HTTP/1.0\r\n\r\n"
    assert answered(port, two).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,  # TLS to a port without it
        b"GET\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"GET / HTTP/1.1\r\nContent-Length: nonsense\r\n\r\n",
        b"POST /readyz HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000,
    ],
    ids=["tls", "short", "long", "many headers", "length", "large body"],
)
def test_what_is_no_request_of_ours_is_answered_or_closed_and_the_next_one_is_served(port: HealthServer, request_: bytes) -> None:
    try:
        said = answered(port, request_)
    except ConnectionError:  # closed while there was more to read
        said = b""
    assert not said or said.startswith(b"HTTP/1.1 4"), said
    assert httpx.get(url(port, "/healthz")).status_code == 200


def test_three_hundred_slow_clients_take_no_thread_and_keep_nobody_from_an_answer(port: HealthServer) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(connected(port))
            client.sendall(b"GET /metrics HT")
        assert httpx.get(url(port, "/healthz"), timeout=20).status_code == 200
        assert httpx.get(url(port, "/readyz"), timeout=20).status_code == 503
        assert threading.active_count() <= before + 1  # the one that looks
        assert len(port._clients) <= CLIENTS


def test_a_client_that_sends_or_reads_too_slowly_is_dropped(port: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PATIENCE", 0.3)
    with connected(port) as slow, connected(port) as silent:
        slow.sendall(b"GET /healthz")
        assert slow.recv(100) == silent.recv(100) == b""
    until(lambda: not port._clients, "nobody is waited for")


class Hanging(Observer):
    """Its stores do not answer while it is to wait."""

    def __init__(self) -> None:
        self.wait, self.looks = threading.Event(), 0

    def look(self, *, letters: bool = True) -> Health:
        self.looks += 1
        self.wait.wait(30)
        raise StateUnavailable("the state store is away", hint="is it running?")


def test_stores_that_hang_make_the_worker_unready_and_leave_liveness_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PATIENCE", 0.3)
    observer = Hanging()
    with closing(HealthServer("127.0.0.1", 0, observer, lambda: True)) as port:
        for _ in range(3):
            answer = httpx.get(url(port, "/readyz"), timeout=20)
            assert answer.status_code == 503 and "were not read within" in answer.text
            assert httpx.get(url(port, "/healthz"), timeout=20).status_code == 200
        assert observer.looks == 1  # those that came later waited for the same
        observer.wait.set()
        until(lambda: "the state store is away is it running?" in httpx.get(url(port, "/readyz")).text, "it says why")
        metrics = httpx.get(url(port, "/metrics"))
        samples = {each.name: each.value for family in text_string_to_metric_families(metrics.text) for each in family.samples}
        assert metrics.status_code == 200 and samples == {"cdc_tracker_ready": 0.0, "cdc_tracker_stores_up": 0.0}


def test_a_supervisor_that_is_to_stop_is_not_alive(observer: Observer) -> None:
    with closing(HealthServer("127.0.0.1", 0, observer, lambda: False)) as port:
        answer = httpx.get(url(port, "/healthz"))
        assert answer.status_code == 503 and answer.json() == {"alive": False}


def test_a_port_that_is_taken_is_told_with_the_key_to_change(port: HealthServer, observer: Observer) -> None:
    with pytest.raises(ConfigError, match=f"http.port: 127.0.0.1:{port.port} cannot be listened on") as raised:
        HealthServer("127.0.0.1", port.port, observer, lambda: True)
    assert "http.port" in raised.value.hint


def test_closing_ends_connections_and_frees_the_port(observer: Observer) -> None:
    port = HealthServer("127.0.0.1", 0, observer, lambda: True)
    with connected(port) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /hea")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        port.close()
        assert time.monotonic() - began < 20
        while client.recv(1000):
            pass
    with closing(HealthServer("127.0.0.1", port.port, observer, lambda: True)) as again:
        assert json.loads(httpx.get(url(again, "/healthz")).text) == {"alive": True}
