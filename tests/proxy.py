"""A proxy that lets nobody through and remembers where they wanted to go: so a vendor's address is seen without calling it.

And one that lets everybody through.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest


@contextmanager
def closed_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hosts that https connections asked for, while `HTTPS_PROXY` names the proxy."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_refuse, args=(listener, asked), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        try:
            yield asked
        finally:
            with socket.create_connection(("127.0.0.1", port)) as last:
                last.sendall(b"END\r\n\r\n")
            thread.join(60)


def _refuse(listener: socket.socket, asked: list[str]) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            words = lines.readline().split()
            if words[:1] == [b"END"]:
                return
            while lines.readline().strip():
                pass
            asked.append(words[1].decode().partition(":")[0])
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


class ForwardingProxy:
    """A proxy for http (it asks in the client's place) and https (CONNECT). Every host it is asked for is 127.0.0.1."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []  # (method, host)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _forwarding(self))
        self._server.daemon_threads = False  # so that the end waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The clients have closed their connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)


def _forwarding(proxy: ForwardingProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer
        disable_nagle_algorithm = True

        def do_CONNECT(self) -> None:
            host, _, port = self.path.rpartition(":")
            proxy.asked.append(("CONNECT", host))
            self.close_connection = True
            with socket.create_connection(("127.0.0.1", int(port))) as vendor:
                self.send_response_only(200)
                self.end_headers()
                self.wfile.flush()
                _pass_on(self.connection, vendor)

        def do_POST(self) -> None:
            url = urlsplit(self.path)
            proxy.asked.append(("POST", url.hostname or ""))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with closing(HTTPConnection("127.0.0.1", url.port or 80)) as vendor:
                vendor.request("POST", url.path + (f"?{url.query}" if url.query else ""), body, dict(self.headers))
                answer = vendor.getresponse()
                said = answer.read()
            self.send_response_only(answer.status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


def _pass_on(client: socket.socket, vendor: socket.socket) -> None:
    """Bytes both ways, until one of the two closes."""
    others = {client: vendor, vendor: client}
    while True:
        for ready in select.select([client, vendor], [], [])[0]:
            data = ready.recv(65_536)
            if not data:
                return
            others[ready].sendall(data)
