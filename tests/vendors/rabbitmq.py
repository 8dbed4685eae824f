"""RabbitMQ: one node, started without its package's service, user and cookie.

Erlang's port mapper would outlive the node and be shared with others on the machine: the node gets one of its own.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
from pika.exceptions import AMQPError

from tests.ports import free_ports
from tests.vendors.engine import Program, answers, folder, program
from tests.vendors.kit import EngineUnavailable, Kit, Place, decoded, made

_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in /usr/sbin changes to the user of the package's service


@dataclass(frozen=True)
class Server:
    program: Program
    url: str

    @contextmanager
    def channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            connection.close()

    def make_queue(self, name: str, *bindings: str, exchange: str = "", **arguments: Any) -> None:
        """A durable queue, bound to a topic exchange where one is named."""
        dashed = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
        with self.channel() as channel:
            channel.queue_declare(name, durable=True, arguments=dashed)
            if exchange:
                channel.exchange_declare(exchange, "topic", durable=True)
            for key in bindings:
                channel.queue_bind(name, exchange, key)

    def messages(self, queue: str) -> list[tuple[Any, bytes]]:
        """Properties and body of every message, which stay in the queue, in order."""
        found: list[tuple[Any, bytes]] = []
        with self.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(queue)
                if method is None:
                    return found  # what was not acknowledged goes back when the channel closes
                found.append((properties, body))


def _environment(root: Path, port: int, distribution: int, mapper: int) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(root),  # where the cookie is made
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"cdc{uuid.uuid4().hex[:8]}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(root / "mnesia"),
        "RABBITMQ_LOG_BASE": str(root / "log.d"),
        "RABBITMQ_CONF_ENV_FILE": str(root / "none.conf"),
        "RABBITMQ_CONFIG_FILE": str(root / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(root / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(root / "enabled_plugins"),
        "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the node, instead of waiting for it
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2 +sbwt none",
    }


@contextmanager
def engine() -> Iterator[Server]:
    if not _SCRIPT.exists():
        raise EngineUnavailable(f"there is no {_SCRIPT}: apt-get install rabbitmq-server")
    with folder() as root:
        port, distribution, mapper = free_ports(3)
        (root / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\nlog.console = true\nlog.console.level = warning\n")
        (root / "enabled_plugins").write_text("[].\n")
        environment = _environment(root, port, distribution, mapper)
        names = Program([program("epmd", "erlang-base"), "-port", str(mapper)], root, lambda: answers(mapper), environment)
        node = Program([str(_SCRIPT)], root, lambda: _ready(port), environment)
        try:
            names.start()
            node.start()
            yield Server(node, f"amqp://guest:guest@127.0.0.1:{port}/%2F")
        finally:
            node.kill()
            names.kill()


def _ready(port: int) -> bool:
    """The port is open before logins work."""
    if not answers(port):
        return False
    try:
        pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@127.0.0.1:{port}/%2F")).close()
    except (AMQPError, OSError):
        return False
    return True


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    server: Server = place.engines.get("rabbitmq")
    name = f"events-{uuid.uuid4().hex[:12]}"
    server.make_queue(name, "#", exchange=name)

    def held() -> list[dict[str, Any]]:
        return [decoded(body) for _, body in server.messages(name)]

    opened = made("rabbitmq", place.folder, url=server.url, exchange=name)
    yield Kit(opened, held, keeps_repeats=True)


KITS = {"rabbitmq": _kit}
