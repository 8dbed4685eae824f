"""What each answer means, over real connections."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.segment import SegmentDestination, SegmentSettings
from cdc_tracker.destinations.support.http import Http, HttpSettings, check_url, retry_after
from cdc_tracker.errors import BatchRejected, CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import Batch, Event, Outcome, Position
from tests.vendors.segment import SegmentServer
from tests.vendors.server import Answer, Cut, Slow

KEY = "wk/3f9+0c"
QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)


@pytest.fixture
def vendor() -> Iterator[SegmentServer]:
    with SegmentServer(write_key=KEY) as running:
        yield running


@pytest.fixture
def segment(vendor: SegmentServer) -> Iterator[SegmentDestination]:
    destination = opened(vendor.url)
    yield destination
    destination.close()


def opened(url: str, **settings: Any) -> SegmentDestination:
    made = SegmentSettings.model_validate({"type": "segment", "write_key": KEY, "endpoint": url, **settings})
    return SegmentDestination("product", made, Path())


def event(n: int, user: str | None = "3", size: int = 10) -> Event:
    who = f'"userId":"{user}",' if user else ""
    body = f'{{"type":"track","event":"Paid","messageId":"id-{n}",{who}"properties":{{"x":"{"y" * size}"}}}}'
    return Event(f"id-{n}", "track", body.encode(), "m", Position(100, n), 0)


def batch(count: int) -> Batch:
    return Batch([event(n) for n in range(count)], Position(500, -1))


def deliver(destination: SegmentDestination, made: Batch) -> tuple[list[Outcome], list[CdcTrackerError]]:
    troubles: list[CdcTrackerError] = []
    receipts = send(destination, made, stop=lambda: False, on_trouble=troubles.append, backoff=QUICK)
    return [receipt.outcome for receipt in receipts], troubles


def meaning_of(status: int) -> type[CdcTrackerError]:
    """By RFC 9110 and its relatives: what speaks of the content, what passes, and what speaks of the request as a whole."""
    if status in (400, 422):
        return BatchRejected
    if status == 413:
        return TooLarge
    if status in (408, 425, 429) or (status >= 500 and status not in (501, 505, 511)):
        return DestinationUnavailable
    return DestinationBlocked


MEANINGS = [(status, meaning_of(status)) for status in range(300, 600)]


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[SegmentServer, SegmentDestination]]:
    """One server and one destination for a whole table of answers."""
    with SegmentServer(write_key=KEY) as running:
        destination = opened(running.url)
        yield running, destination
        destination.close()


@pytest.mark.parametrize(("status", "meaning"), MEANINGS)
def test_each_status_has_its_meaning_and_its_hint(
    status: int, meaning: type[CdcTrackerError], shared: tuple[SegmentServer, SegmentDestination]
) -> None:
    vendor, segment = shared
    body = b"" if status == 304 else b'{"message": "the reason"}'  # a 304 has none
    vendor.answers(Answer(status, body))
    with pytest.raises(meaning, match=f"{vendor.url} answered {status}.*{'the reason' if body else ''}") as caught:
        segment.deliver(batch(1))
    assert type(caught.value) is meaning
    assert bool(caught.value.hint) is (meaning is DestinationBlocked)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": " 5 "}, 5.0),
        ({"Retry-After": "1_000"}, None),
        ({"Retry-After": "1e3"}, None),
        ({"Retry-After": "٥"}, None),
        ({"Retry-After": "5, 7"}, None),
        ({"Retry-After": "9" * 30}, 30 * 86_400.0),
        ({"Retry-After": "9" * 5_000}, 30 * 86_400.0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 30 * 86_400.0),
        ({"Retry-After": "Fri, 31 Dec 10000 23:59:59 GMT"}, None),
        ({"Retry-After": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}, None),
        ({"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999"}, None),
        ({"Retry-After": "Mon, 01 Jan 0001 00:00:00 +2359"}, 0.0),
        ({"Retry-After": "5", "Date": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}, 5.0),
        ({"Retry-After": formatdate(1_000_000_090, usegmt=True), "Date": formatdate(1_000_000_000, usegmt=True)}, 90.0),
        ({"Retry-After": formatdate(1_000_000_000, usegmt=True), "Date": formatdate(1_000_000_090, usegmt=True)}, 0.0),
        ({"X-RateLimit-Reset": "12"}, 12.0),
        ({"X-RateLimit-Reset": "1700000030", "Date": formatdate(1_700_000_000, usegmt=True)}, 30.0),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read_from_the_answer(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after({name.lower(): value for name, value in headers.items()}) == seconds


def test_a_throttled_batch_says_how_long_to_wait(vendor: SegmentServer, segment: SegmentDestination) -> None:
    vendor.answers(Answer(429, headers={"Retry-After": "7"}))
    with pytest.raises(DestinationUnavailable) as caught:
        segment.deliver(batch(1))
    assert caught.value.retry_after == 7.0


def test_the_same_events_go_again_until_they_are_taken_and_count_once(vendor: SegmentServer, segment: SegmentDestination) -> None:
    vendor.answers(
        Answer(429, headers={"Retry-After": "0"}),
        Answer(503),
        Answer(500, taken=True),
        Cut(after_body=False),
        Cut(),
        Cut(taken=True),
    )
    outcomes, troubles = deliver(segment, batch(20))
    assert outcomes == [Outcome.ASSUMED] * 20
    assert len(troubles) == 6
    assert list(vendor.events) == [f"id-{n}" for n in range(20)]
    assert vendor.repeated == 40
    bodies = {request.body.partition(b'],"sentAt"')[0] for request in vendor.requests}
    assert len(bodies) == 1


def test_an_answer_that_does_not_come_in_time_is_a_passing_fault(vendor: SegmentServer) -> None:
    vendor.answers(Slow(30))
    destination = opened(vendor.url, timeout="100ms")
    with pytest.raises(DestinationUnavailable, match=r"no answer from .* within 0.1 s; it may or may not have taken the batch"):
        destination.deliver(batch(1))
    destination.close()


@contextmanager
def speaking(say: Callable[[socket.socket, threading.Event], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads a request, and answers each as `say` does over the plain connection. Its URL, and the requests."""
    stopped, requests, threads = threading.Event(), list[bytes](), list[threading.Thread]()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            while not stopped.is_set() and (request := _request(connection)):
                requests.append(request)
                say(connection, stopped)
                if b"keep" not in request:
                    return

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            stopped.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in [acceptor, *threads]:
                thread.join(20)


def _request(connection: socket.socket) -> bytes:
    read = b""
    while b"\r\n\r\n" not in read or len(read.partition(b"\r\n\r\n")[2]) < _length(read):
        piece = connection.recv(65_536)
        if not piece:
            return b""
        read += piece
    return read


def _length(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def plainly(answer: bytes) -> Callable[[socket.socket, threading.Event], None]:
    return lambda connection, stopped: connection.sendall(answer)


def dripping(first: bytes, line: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """The beginning of an answer, and then the same piece again and again."""

    def say(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(first)
        while not stopped.wait(0.02):
            connection.sendall(line)

    return say


@pytest.mark.parametrize("kind", ["head", "early hints"])
def test_a_head_that_drips_does_not_hold_it_up_for_ever(kind: str) -> None:
    first, line = {
        "head": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    }[kind]
    with speaking(dripping(first, line)) as (url, _):
        destination = opened(url, timeout="300ms")
        with pytest.raises(DestinationUnavailable, match=r"no answer .* within 0.3 s"):
            destination.deliver(batch(1))
        destination.close()


def test_a_large_request_may_take_longer_than_its_answer_on_a_slow_line() -> None:
    """What bounds the answer begins when the request is there."""

    size = 40_000_000  # ten times what the kernel holds back for a reader

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            head = connection.recv(65_536)
            left = size - len(head.partition(b"\r\n\r\n")[2])
            while left:
                for _ in range(16):
                    left -= len(connection.recv(min(left, 65_536)))
                time.sleep(0.05)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        client = Http(f"http://127.0.0.1:{listener.getsockname()[1]}", HttpSettings(type="any", timeout=1.5), Path())
        began = time.monotonic()
        assert client.post(b"x" * size, {}).status == 200
        assert time.monotonic() - began > 1.5  # else it has shown nothing
        client.close()
        thread.join(20)


UNREADABLE = {
    "not gzip": plainly(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"),
    "not deflate": plainly(b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 2\r\n\r\nok"),
    "an unknown encoding": plainly(b"HTTP/1.1 200 OK\r\nContent-Encoding: x-own\r\nContent-Length: 2\r\n\r\nok"),
    "an unknown charset": plainly(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/x; charset=no-such\r\nContent-Length: 2\r\n\r\n\xff\xfe"
    ),
    "cut": plainly(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok"),
    "cut in a chunk": plainly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok"),
    "no chunk": plainly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello"),
    "never ends": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"."),
    "has no end": dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536),
}


@pytest.mark.parametrize("how", UNREADABLE)
def test_what_a_2xx_took_is_not_sent_again_though_its_body_cannot_be_read(how: str) -> None:
    with speaking(UNREADABLE[how]) as (url, requests):
        destination = opened(url, timeout="500ms")
        outcomes, troubles = deliver(destination, batch(3))
        destination.close()
    assert outcomes == [Outcome.ASSUMED] * 3
    assert troubles == []
    assert len(requests) == 1


@pytest.mark.parametrize(("status", "meaning"), [(503, DestinationUnavailable), (401, DestinationBlocked), (413, TooLarge)])
def test_a_status_keeps_its_meaning_where_the_body_cannot_be_read(status: int, meaning: type[CdcTrackerError]) -> None:
    with speaking(plainly(b"HTTP/1.1 %d No\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nno" % status)) as (url, _):
        destination = opened(url)
        with pytest.raises(meaning, match=f"answered {status}"):
            destination.deliver(batch(1))
        destination.close()


def test_a_connection_whose_answer_did_not_end_is_not_used_again() -> None:
    """Else what is left of one answer would be taken for the next one."""
    left = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    with speaking(plainly(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 8_000_000 + left)) as (url, requests):
        destination = opened(url, timeout="5s")
        for _ in range(3):
            assert deliver(destination, batch(1))[0] == [Outcome.ASSUMED]
        destination.close()
    assert len(requests) == 3


def test_an_answer_with_a_reason_for_each_of_10_000_events_is_read_whole(vendor: SegmentServer, http: Http) -> None:
    vendor.answers(Answer(200, json.dumps([{"uuid": f"{n:036d}", "details": "d" * 200} for n in range(10_000)]).encode()))
    reply = http.post(b"[]", {})
    assert reply.fault == ""
    assert len(reply.read(msgspec.json.Decoder(list[dict[str, str]])) or ()) == 10_000


def test_no_cookie_is_kept() -> None:
    """A collector would take everybody for the one browser that it gave it to."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: sp=1; Path=/; Max-Age=31536000\r\nContent-Length: 0\r\n\r\n"
    with speaking(plainly(answer)) as (url, requests):
        destination = opened(url)
        for _ in range(2):
            destination.deliver(batch(1))
        destination.close()
    assert len(requests) == 2
    assert not any(b"cookie" in request.lower() for request in requests)


def test_no_credentials_are_taken_from_a_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".netrc", "other"):
        (tmp_path / name).write_text("machine 127.0.0.1 login eve password s3same\ndefault login eve password s3same\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    with SegmentServer() as vendor:
        client = Http(vendor.url, HttpSettings(type="any"), Path())
        client.post(b"[]", {})
        client.close()
        assert "authorization" not in vendor.requests[0].headers


def test_a_proxy_of_the_environment_is_used_and_a_wrong_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with speaking(dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")) as (proxy, requests):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        destination = opened("http://segment.invalid", timeout="300ms")
        with pytest.raises(DestinationUnavailable, match="no answer"):  # the bound holds through a proxy, too
            destination.deliver(batch(1))
        destination.close()
        assert requests[0].startswith(b"POST http://segment.invalid/v1/batch HTTP/1.1\r\n")
    monkeypatch.setenv("HTTP_PROXY", "gopher://proxy")
    with pytest.raises(ConfigError, match="proxy that cannot be used"):
        opened("http://segment.invalid")


@pytest.mark.parametrize("value", ["größe", "k3y\n", " k3y", "k3y\x00"])
def test_a_key_that_no_header_can_hold_blocks_and_is_not_shown(value: str, vendor: SegmentServer, http: Http) -> None:
    with pytest.raises(DestinationBlocked, match=r"one of .*X-Write-Key") as caught:
        http.post(b"[]", {"X-Write-Key": value})
    assert not any(part in f"{caught.value} {caught.value.hint}" for part in ("größe", "k3y"))
    assert vendor.requests == []


def test_a_host_that_is_not_there_is_a_passing_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    destination = opened(f"http://127.0.0.1:{port}")
    for call in (lambda: destination.deliver(batch(1)), destination.probe):
        with pytest.raises(DestinationUnavailable, match=f"cannot reach http://127.0.0.1:{port}"):
            call()
    destination.close()


def test_a_probe_sends_no_key_and_no_event(vendor: SegmentServer, segment: SegmentDestination) -> None:
    segment.probe()
    assert [(request.method, request.body) for request in vendor.requests] == [("HEAD", b"")]
    assert "authorization" not in vendor.requests[0].headers
    for status, error in ((301, DestinationBlocked), (410, DestinationBlocked), (503, DestinationUnavailable)):
        vendor.answers(Answer(status))
        with pytest.raises(error):
            segment.probe()


def test_no_secret_is_in_any_text(vendor: SegmentServer, segment: SegmentDestination, caplog: pytest.LogCaptureFixture) -> None:
    encoded = base64.b64encode(f"{KEY}:".encode()).decode()
    echo = f"no such key: {KEY}, Basic {encoded}, {vendor.url}/v1/batch".encode()
    settings = SegmentSettings.model_validate({"write_key": KEY, "endpoint": vendor.url})
    texts = [repr(segment), repr(settings), str(settings)]
    with caplog.at_level(logging.DEBUG):
        for status in (301, 400, 401, 413, 500):
            vendor.answers(Answer(status, echo))
            with pytest.raises(CdcTrackerError) as caught:
                segment.deliver(batch(1))
            texts += [str(caught.value), repr(caught.value), caught.value.hint, repr(caught.value.__cause__)]
    assert not any(secret in text for text in [*texts, caplog.text] for secret in (KEY, encoded))
    assert "***" in "".join(texts)


def test_settings_that_do_not_hold_show_no_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        SegmentSettings.model_validate({"write_key": KEY, "endpoint": "https://user:s3same@host"})
    assert not any(secret in str(caught.value) for secret in (KEY, "s3same"))
    assert "must not contain credentials" in str(caught.value)


@pytest.mark.parametrize("text", ["ftp://host", "host", "", "https://", "https://u:p@host"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|is not"):
        check_url(text)


def test_a_file_of_certificates_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`ca`: cannot read certificates from .*none\.pem"):
        opened("https://127.0.0.1", ca=str(tmp_path / "none.pem"))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """One for 127.0.0.1 that nobody knows, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate takes openssl")
    made, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def test_a_certificate_is_checked_unless_told_otherwise(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with SegmentServer(write_key=KEY, tls=context) as vendor:
        stranger = opened(vendor.url)
        with pytest.raises(DestinationUnavailable, match="certificate verify failed") as caught:
            stranger.deliver(batch(1))
        assert "`ca`" in caught.value.hint
        assert vendor.events == {}
        for settings in ({"ca": str(certificate[0])}, {"verify": False}):
            destination = opened(vendor.url, **settings)
            assert deliver(destination, batch(1))[0] == [Outcome.ASSUMED]
            destination.close()
        stranger.close()


@pytest.fixture
def http(vendor: SegmentServer) -> Iterator[Http]:
    settings = HttpSettings(type="any", compression="gzip")
    opened = Http(vendor.url + "/v1/batch", settings, Path(), [KEY])
    yield opened
    opened.close()


def test_one_client_posts_to_several_addresses(vendor: SegmentServer, http: Http) -> None:
    with SegmentServer() as other:
        reply = http.post(b"[]", {"X-One": "1"}, url=other.url + "/elsewhere?x=1", content_type="text/plain")
        assert (reply.status, reply.place) == (404, other.url)
        with pytest.raises(DestinationBlocked, match=other.url):
            http.check(reply)
        [request] = other.requests
    assert request.path == "/elsewhere?x=1"
    assert (request.headers["content-type"], request.headers["x-one"]) == ("text/plain", "1")
    assert (request.body, request.headers["content-encoding"]) == (b"[]", "gzip")
    assert vendor.requests == []


def test_a_body_goes_unpacked_where_an_address_takes_it_only_so(vendor: SegmentServer, http: Http) -> None:
    http.post(b"[1]", {}, packed=False)
    assert "content-encoding" not in vendor.requests[0].headers


def test_fields_go_as_a_form(vendor: SegmentServer, http: Http) -> None:
    http.post_form({"api_key": KEY, "data": '[{"name":"ä & b=c"}]'})
    [request] = vendor.requests
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "content-encoding" not in request.headers
    assert parse_qs(request.body.decode()) == {"api_key": [KEY], "data": ['[{"name":"ä & b=c"}]']}


def test_a_vendors_words_are_quoted_on_one_line_without_secrets(http: Http) -> None:
    assert http.quoted(f"no\n such  key: {KEY}") == "no such key: ***"
    assert len(http.quoted("x" * 5_000)) == 300
