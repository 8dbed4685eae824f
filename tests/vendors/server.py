"""Vendors' servers on 127.0.0.1 that behave as their documentation says, and misbehave when told to.

    with SegmentServer(write_key="k") as server:
        server.answers(Answer(429, headers={"Retry-After": "1"}), Cut(taken=True))   # the next two requests; then as documented
        ...
        assert set(server.events) == expected          # messageId → the event as it came first
        assert server.repeated == 0                    # events that came again

Each server has a thread of its own for every connection and shares nothing with another.
`python -m tests.vendors segment` runs one as a process of its own (for benchmarks): it prints its URL, and any GET answers counts
as JSON.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """A status instead of the documented behaviour. `taken`: the events are kept all the same. `delay`: seconds before it."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    taken: bool = False
    delay: float = 0.0


@dataclass(frozen=True)
class Cut:
    """The connection is closed without an answer: after the body was read, or before. `taken`: the events are kept."""

    after_body: bool = True
    taken: bool = False


@dataclass(frozen=True)
class Slow:
    """The documented behaviour, after so many seconds."""

    delay: float


@dataclass(frozen=True)
class Drop:
    """200, and the events are thrown away: all, or those for which `which` is true."""

    which: Callable[[dict[str, Any]], bool] = lambda event: True


@dataclass(frozen=True)
class Echo:
    """A status, and as the answer's body all that the request held: path, headers, body."""

    status: int


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes  # unpacked
    wire_bytes: int


@dataclass(frozen=True)
class Where:
    """An answer to the requests for which `which` is true; the documented behaviour to others."""

    which: Callable[[Request], bool]
    answer: Answer


Script = Answer | Cut | Slow | Drop | Echo | Where


class VendorServer:
    """What the servers share: HTTP/1.1 with keep-alive, the script, the record of requests."""

    def __init__(self, *, port: int = 0, keep_requests: bool = True, tls: ssl.SSLContext | None = None) -> None:
        """`keep_requests`: False for long runs, where the bodies would fill the memory. `tls`: a server's context, for https."""
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._keep_requests = keep_requests
        self._script: deque[Script | None] = deque()
        self._always: Script | None = None
        self._counted = 0
        self._scheme = "https" if tls else "http"
        self._server = _Server(("127.0.0.1", port), _handler(self), tls)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def over_tls(self, tls: ssl.SSLContext) -> Iterator[int]:
        """The same vendor at one more port, by TLS."""
        server = _Server(("127.0.0.1", 0), _handler(self), tls)
        try:
            yield server.server_address[1]
        finally:
            server.end()

    def answers(self, *script: Script | None) -> None:
        """What the next requests meet, one each; after them, and where it says None, the documented behaviour."""
        with self.lock:
            self._script.extend(script)

    def always(self, script: Script | None) -> None:
        """What every request meets once the script is used up, until told otherwise. None: the documented behaviour."""
        with self.lock:
            self._always = script

    def next_script(self) -> Script | None:
        with self.lock:
            return self._script.popleft() if self._script else self._always

    def record(self, request: Request) -> None:
        with self.lock:
            self._counted += 1
            if self._keep_requests:
                self.requests.append(request)

    def handle(self, request: Request) -> Answer:
        """The documented behaviour, with everything it keeps."""
        raise NotImplementedError

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        """Keep the request's events, but those that `drop` is true for."""
        raise NotImplementedError

    def summary(self) -> dict[str, int]:
        return {"requests": self._counted}

    def look(self, path: str) -> Answer:
        """What a GET answers: the counts, whatever the path."""
        return Answer(body=json.dumps(self.summary()).encode())

    def close(self) -> None:
        self.closing.set()
        self._server.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that close waits for them
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.shutdown()
        self.cut_all()
        self.server_close()
        self._thread.join(60)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in mid-request is normal here."""

    def cut_all(self) -> None:
        with self._guard:
            for request in self._open:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # closed by itself meanwhile


def _handler(vendor: VendorServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # one packet an answer

        def do_POST(self) -> None:
            script = vendor.next_script()
            if isinstance(script, Cut) and not script.after_body:
                self.close_connection = True
                return
            request = self._request()
            vendor.record(request)
            if isinstance(script, Cut):
                self.close_connection = True
                if script.taken:
                    vendor.take(request)
                return
            self._answer(self._decided(script, request))

        def _decided(self, script: Script | None, request: Request) -> Answer:
            if isinstance(script, Answer):
                vendor.closing.wait(script.delay)
                if script.taken:
                    vendor.take(request)
                return script
            if isinstance(script, Drop):
                vendor.take(request, script.which)
                return Answer()
            if isinstance(script, Echo):
                return Answer(script.status, f"{request.path} {dict(request.headers)} ".encode() + request.body)
            if isinstance(script, Where) and script.which(request):
                return script.answer
            if isinstance(script, Slow):
                vendor.closing.wait(script.delay)
            try:
                return vendor.handle(request)
            except (ValueError, RecursionError) as error:  # JSON that a parser gives up on: deep, or with endless numbers
                return Answer(400, f"cannot be read: {error}"[:100].encode())

        def do_GET(self) -> None:
            self._answer(vendor.look(self.path))

        def do_HEAD(self) -> None:
            vendor.record(self._request())
            script = vendor.next_script()
            self._answer(script if isinstance(script, Answer) else Answer(405))

        def _request(self) -> Request:
            wire = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = gzip.decompress(wire) if headers.get("content-encoding") == "gzip" else wire
            return Request(self.command, self.path, headers, body, len(wire))

        def _answer(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            for name, value in {"Date": self.date_time_string(), **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler
