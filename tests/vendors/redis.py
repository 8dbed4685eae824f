"""Redis: one server that keeps everything it has answered for."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.ports import free_ports
from tests.vendors.engine import Program, answers, folder, program
from tests.vendors.kit import Kit, Place, decoded, made


@dataclass(frozen=True)
class Server:
    program: Program
    url: str

    def command(self, *words: Any) -> Any:
        with closing(self._client()) as client:
            return client.execute_command(*words)

    def entries(self, stream: str) -> list[dict[str, bytes]]:
        """The fields of every entry, in order."""
        with closing(self._client()) as client:
            return [{name.decode(): value for name, value in fields.items()} for _, fields in client.xrange(stream)]

    def _client(self) -> Any:  # its answers are typed for asyncio as well
        return redis.Redis.from_url(self.url)


@contextmanager
def running(root: Path, *options: str) -> Iterator[Server]:
    """A server of one's own."""
    [port] = free_ports(1)
    fixed = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(root), "--save", "", "--daemonize", "no"]
    command = [program("redis-server", "redis-server"), *fixed, *options]
    server = Program(command, root, lambda: _ready(port))
    try:
        server.start()
        yield Server(server, f"redis://127.0.0.1:{port}/0")
    finally:
        server.kill()


def _ready(port: int) -> bool:
    """It answers, and has read its file."""
    if not answers(port):
        return False
    with closing(redis.Redis(port=port)) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False


@contextmanager
def engine() -> Iterator[Server]:
    with folder() as root, running(root, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    server: Server = place.engines.get("redis")
    name = f"events-{uuid.uuid4().hex[:12]}"

    def held() -> list[dict[str, Any]]:
        return [decoded(entry["event"]) for entry in server.entries(name)]

    opened = made("redis", place.folder, url=server.url, stream=name, state_key=f"state-{name}")
    keys = (name, f"state-{name}")

    def keep() -> Callable[[], None]:
        for key in keys:
            server.command("COPY", key, f"backup-{key}", "REPLACE")

        def bring_back() -> None:
            for key in keys:
                server.command("RENAME", f"backup-{key}", key)

        return bring_back

    yield Kit(opened, held, keeps_repeats=True, exactly_once=True, keep=keep, remove=lambda: server.command("DEL", *keys))


KITS = {"redis": _kit}
HOLDERS = ["redis"]
