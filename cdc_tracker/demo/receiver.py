"""A local server that speaks Segment's batch contract, so that the demo can show a vendor that takes events by HTTP.

Like Segment it answers 200 to every batch that it can read and holds an event once per messageId. Unlike Segment it writes
down whatever it was sent, repeats too: the oracle counts them.
"""

from __future__ import annotations

import base64
import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import msgspec

WRITE_KEY = "demo-write-key"
_MOST_BYTES = 500 * 1024
_AUTHORIZATION = "Basic " + base64.b64encode(f"{WRITE_KEY}:".encode()).decode()


class _Sent(msgspec.Struct):
    batch: list[msgspec.Raw]


class _Named(msgspec.Struct):
    messageId: str  # noqa: N815 -- Segment's name


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores a connection that a killed client broke off. Prints anything else: a fault of the demo."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed names socket's tuple


class Receiver:
    """Started by `with`, on a free port of 127.0.0.1. Every event is on disk in `file` before the request is answered."""

    def __init__(self, file: Path) -> None:
        self.sent = 0  # events, repeats included
        self.ids: set[str] = set()
        self._file: BinaryIO = file.open("ab")
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _requests_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="receiver")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._lock:
            self._file.close()

    def take(self, body: bytes) -> int:
        """The status to answer with."""
        if len(body) > _MOST_BYTES:
            return 400
        try:
            events = msgspec.json.decode(body, type=_Sent).batch
            ids = [msgspec.json.decode(event, type=_Named).messageId for event in events]
        except msgspec.DecodeError:
            return 400
        with self._lock:
            if self._file.closed:
                return 503
            self._file.write(b"".join(bytes(event) + b"\n" for event in events))
            self._file.flush()
            self.sent += len(events)
            self.ids.update(ids)
        return 200


def _requests_for(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Request(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open
        wbufsize = -1  # an answer goes out in one piece: in two, the second would wait for the client's delayed ACK
        timeout = 30.0  # so that no thread waits forever for a client that was killed

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path != "/v1/batch":
                self._answer(404)
            elif self.headers.get("Authorization") != _AUTHORIZATION:
                self._answer(401)
            else:
                self._answer(receiver.take(body))

        def do_HEAD(self) -> None:
            self._answer(200, b"")

        def _answer(self, status: int, answer: bytes = b'{"success":true}') -> None:
            if status != 200:
                answer = b'{"success":false}'
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the table shows what arrives."""

    return Request
