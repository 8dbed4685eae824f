"""NATS with JetStream: one server with a store of its own."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.js import JetStreamContext

from tests.ports import free_ports
from tests.vendors.engine import Program, answers, folder, program
from tests.vendors.kit import Kit, Place, decoded, made

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    program: Program
    url: str

    def jetstream(self, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Do something with a connection of our own."""

        async def connected() -> T:
            client = await nats.connect(self.url)
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(connected())

    def make_stream(self, name: str, *subjects: str, **config: Any) -> None:
        async def make(jetstream: JetStreamContext) -> None:
            await jetstream.add_stream(name=name, subjects=list(subjects), **config)

        self.jetstream(make)

    def messages(self, stream: str) -> list[Any]:
        """Every message, in order."""

        async def fetch(jetstream: JetStreamContext) -> list[Any]:
            state = (await jetstream.stream_info(stream)).state
            numbers = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            return [await jetstream.get_msg(stream, number) for number in numbers]

        return self.jetstream(fetch)


@contextmanager
def running(root: Path, **config: Any) -> Iterator[Server]:
    """A server of one's own, with further settings."""
    [port] = free_ports(1)
    settings = {"listen": f"127.0.0.1:{port}", "jetstream": {"store_dir": f"{root}/store"}, **config}
    (root / "nats.conf").write_text(json.dumps(settings))
    command = [program("nats-server", "nats-server"), "-c", str(root / "nats.conf")]
    server = Program(command, root, lambda: answers(port))
    try:
        server.start()
        yield Server(server, f"nats://127.0.0.1:{port}")
    finally:
        server.kill()


@contextmanager
def engine() -> Iterator[Server]:
    with folder() as root, running(root) as server:
        yield server


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    server: Server = place.engines.get("nats")
    name = f"events-{uuid.uuid4().hex[:12]}"
    server.make_stream(name, f"{name}.>")

    def held() -> list[dict[str, Any]]:
        return [decoded(message.data) for message in server.messages(name)]

    opened = made("nats", place.folder, url=server.url, subject=f"{name}.{{type}}.{{event}}")
    yield Kit(opened, held, keeps_repeats=False)


KITS = {"nats": _kit}
