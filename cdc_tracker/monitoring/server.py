"""The health port: HTTP/1.1 on one thread, whatever clients do; another thread reads the stores, for one request at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, cast

import h11

from cdc_tracker.errors import CdcTrackerError, ConfigError
from cdc_tracker.monitoring.facts import Observer
from cdc_tracker.monitoring.metrics import CONTENT_TYPE, exposition

PATIENCE = 5.0  # seconds for a client to send a request or take its answer, and for the stores to be read
CLIENTS = 64  # at once; the oldest connection is closed for the next
REQUEST = 16 * 1024  # bytes of a request's line and headers

_Answer: TypeAlias = tuple[int, str, bytes]
"""Status, content type, body."""

_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"
_PAGES = ("/healthz", "/readyz", "/metrics")


class HealthServer:
    """/healthz (the supervisor is alive), /readyz (200 or 503 with the reasons), /metrics (Prometheus). Loopback by default.

    `alive` answers /healthz, which reads no store.
    """

    def __init__(self, host: str, port: int, observer: Observer, alive: Callable[[], bool]) -> None:
        self._observer, self._alive = observer, alive
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="health-look")
        self._shared: dict[str, asyncio.Future[_Answer]] = {}  # by path: reads of the stores in progress
        self._clients: dict[asyncio.Task[None], None] = {}  # oldest first
        self._loop = asyncio.new_event_loop()
        try:
            self._server = self._loop.run_until_complete(asyncio.start_server(self._connected, host, port, limit=REQUEST))
        except OSError as error:
            self._loop.close()
            raise ConfigError(
                f"http.port: {host}:{port} cannot be listened on: {error.strerror or error}",
                hint="another worker or program has the port: choose another `http.port`, or null for none",
            ) from None
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends every connection. Does not wait for a read of the stores."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._looking.shutdown(wait=False, cancel_futures=True)

    async def _end(self) -> None:
        self._server.close()
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        if len(self._clients) >= CLIENTS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.cancel()
        self._clients[task] = None
        writer.transport.set_write_buffer_limits(0)  # an answer counts as sent when the system has all of it
        try:
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST)
            while await self._exchange(connection, reader, writer):
                connection.start_next_cycle()
        except (OSError, TimeoutError, asyncio.CancelledError, h11.LocalProtocolError):
            writer.transport.abort()  # too slow, gone, or closed for another
        finally:
            self._clients.pop(task, None)
            writer.close()

    async def _exchange(self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Returns whether another may follow."""
        try:
            async with asyncio.timeout(PATIENCE):
                request = await _received(connection, reader)
        except h11.RemoteProtocolError as error:
            await _send(connection, writer, None, error.error_status_hint, _TEXT, f"{error}\n".encode())
            return False
        if request is None:
            return False
        status, kind, body = await self._answer(request)
        await _send(connection, writer, request, status, kind, body)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, request: h11.Request) -> _Answer:
        path = request.target.decode("ascii", "replace").partition("?")[0]
        if path not in _PAGES:
            return 404, _TEXT, b"/healthz, /readyz, /metrics\n"
        if request.method not in (b"GET", b"HEAD"):
            return 405, _TEXT, b"GET or HEAD\n"
        if path == "/healthz":
            alive = self._alive()
            return (200 if alive else 503), _JSON, b'{"alive":true}' if alive else b'{"alive":false}'
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._looked(path, self._metrics if path == "/metrics" else self._readiness)
        except TimeoutError:
            return _unready(f"state store and journal were not read within {PATIENCE:.0f} s")

    async def _looked(self, path: str, look: Callable[[], _Answer]) -> _Answer:
        """The result of reading the stores. Requests that come during a read get its result."""
        if path not in self._shared:
            self._shared[path] = self._loop.run_in_executor(self._looking, look)
            self._shared[path].add_done_callback(lambda _: self._shared.pop(path))
        return await asyncio.shield(self._shared[path])

    def _metrics(self) -> _Answer:
        return 200, CONTENT_TYPE, exposition(self._observer)

    def _readiness(self) -> _Answer:
        try:
            health = self._observer.look(letters=False)
            findings, problems = health.findings, health.problems
        except CdcTrackerError as error:
            return _unready(f"{error} {error.hint}".strip())
        except Exception as error:  # a fault in cdc-tracker must not pass for good health
            return _unready(f"a fault in cdc-tracker: {error!r}")
        shown = [{"severity": each.severity, "who": each.who, "what": str(each), "hint": each.hint} for each in findings]
        body = json.dumps({"ready": not problems, "problems": problems, "findings": shown})
        return (503 if problems else 200), _JSON, body.encode()


def _unready(problem: str) -> _Answer:
    return 503, _JSON, json.dumps({"ready": False, "problems": [problem], "findings": []}).encode()


async def _received(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request, with its body read and dropped; None if the client has no more. Raises RemoteProtocolError."""
    request, size = None, 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(4096)
            size += len(data)
            if size > 4 * REQUEST:
                raise h11.RemoteProtocolError("a body is not asked for", error_status_hint=413)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None


async def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, request: h11.Request | None, status: int, kind: str, body: bytes
) -> None:
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    if request is None:
        headers.append(("Connection", "close"))
    events: list[h11.Event] = [h11.Response(status_code=status, headers=headers)]
    if request is None or request.method != b"HEAD":
        events.append(h11.Data(data=body))
    for event in (*events, h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    async with asyncio.timeout(PATIENCE):
        await writer.drain()
