"""One connection to NATS, and the event loop that it runs on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import msgspec
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

T = TypeVar("T")

UNHEARD, LATE, GONE, PAYLOAD = 503, -1, -2, -3
"""Codes of a Refusal: no subscriber, no answer, no connection, larger than the server's max_payload."""


class Refusal(NamedTuple):
    """Why a message was not stored. `code`: JetStream's, or one of the four above."""

    code: int
    text: str


class _Ack(msgspec.Struct):
    """A stream's answer to a publish."""

    error: dict[str, Any] | None = None


_ACK = msgspec.json.Decoder(_Ack)


class Wire:
    """A connection, and the messages that wait for their acknowledgement. To be used on the event loop only.

    nats-py's publish_async is not used: its future does not get the error of a refused message.
    """

    def __init__(self) -> None:
        self.client = Client()
        self._inbox = ""
        self._count = 0
        self._waiting: dict[str, asyncio.Future[Refusal | None]] = {}

    async def listen(self) -> None:
        """Subscribes to the acknowledgements. To be called once, after connecting."""
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> asyncio.Future[Refusal | None]:
        """Sends a message. The future's result is the reason why it was not stored; None if it was."""
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        future = self._waiting[reply] = asyncio.get_running_loop().create_future()
        try:
            await self.client.publish(subject, body, reply=reply, headers=headers)
        except errors.MaxPayloadError:
            self._settle(reply, Refusal(PAYLOAD, f"the server takes {self.client.max_payload} bytes"))
        except (errors.ConnectionClosedError, errors.OutboundBufferLimitError) as error:
            self._settle(reply, Refusal(GONE, str(error)))
        return future

    async def answers(self, pending: list[asyncio.Future[Refusal | None]], timeout: float) -> list[Refusal | None]:
        """The results of the futures, in order. After `timeout` seconds those without an answer are LATE."""
        if pending:
            await asyncio.wait(pending, timeout=timeout)
        for reply in list(self._waiting):
            if self._waiting[reply] in pending:
                self._settle(reply, Refusal(LATE, f"no answer within {timeout:g} s"))
        return [future.result() for future in pending]

    async def cut(self) -> None:
        """Called when the connection is lost: all messages that wait are GONE."""
        for reply in list(self._waiting):
            self._settle(reply, Refusal(GONE, "the connection was cut"))

    async def _answered(self, message: Msg) -> None:
        if message.headers and message.headers.get("Status") == "503":
            self._settle(message.subject, Refusal(UNHEARD, "no stream answers"))
            return
        try:
            error = _ACK.decode(message.data).error
        except msgspec.DecodeError:
            error = {"description": "an answer that is not JetStream's"}
        refusal = Refusal(error.get("err_code", 0), f"{error.get('description')} ({error.get('err_code')})") if error else None
        self._settle(message.subject, refusal)

    def _settle(self, reply: str, answer: Refusal | None) -> None:
        future = self._waiting.pop(reply, None)
        if future is not None and not future.done():
            future.set_result(answer)


class Loop:
    """An event loop in a thread, which the first call starts."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the coroutine on the loop and returns its result, or raises its exception. From any other thread."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Stops the loop and its thread. A later call of `run` starts new ones."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
