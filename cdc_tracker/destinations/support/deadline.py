"""A time limit for a whole HTTP answer, headers included.

httpx's timeouts apply to single reads and writes: a server that sends a byte a second could delay a request for ever. Here every
wait of a connection also ends at the deadline of its request. The deadline restarts with each piece of the request that is
written, so a large request may take its time on a slow line, and the answer has the full time.
httpcore does I/O in the calling thread, so the deadline is a context variable.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

_PIECE = 64 * 1024  # bytes per write


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begin()

    def begin(self) -> None:
        self.until = time.monotonic() + self.seconds


_NEVER = _Deadline(math.inf)
_now: ContextVar[_Deadline] = ContextVar("deadline", default=_NEVER)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limits requests of this thread on a `bounded` client: after the deadline they raise httpx.TimeoutException."""
    token = _now.set(_Deadline(seconds))
    try:
        yield
    finally:
        _now.reset(token)


def bounded(client: httpx.Client) -> httpx.Client:
    """The client, with connections that obey `within`. httpx has no public way to set the network backend of its transports."""
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Backend()
    return client


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
    left = _now.get().until - time.monotonic()
    if left <= 0:
        raise late("the deadline has passed")
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        deadline = _now.get()
        for start in range(0, len(buffer), _PIECE):
            deadline.begin()
            self._stream.write(buffer[start : start + _PIECE], _left(timeout, httpcore.WriteTimeout))
        deadline.begin()

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))
