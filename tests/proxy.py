"""A proxy that lets nobody through and remembers where they wanted to go: so a vendor's address is seen without calling it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def closed_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hosts that https connections asked for, while `HTTPS_PROXY` names the proxy."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_refuse, args=(listener, asked))
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
            thread.join()


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
