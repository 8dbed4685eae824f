"""No secret of the settings is in any text: not in a log, an error, a receipt or what an object says of itself."""

from __future__ import annotations

import base64
import io
import logging
import socket
import traceback
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import pytest
import structlog
from pydantic import BaseModel, SecretStr

from cdc_tracker import logs
from cdc_tracker.delivery.sender import Interrupted, send
from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Receipt
from tests.certificates import authority
from tests.contract.kits import HTTP
from tests.contract.test_destinations import QUICK
from tests.vendors.kit import Kit, Opener, batch, events, made
from tests.vendors.server import Cut, Echo


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a worker logs at its most talkative. It is told of no secret, which it would blot out by itself."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    stream = io.StringIO()
    logs.set_up(logs.LogSettings(format="json", level="debug"), stream=stream)
    try:
        yield stream
    finally:
        root.handlers, root.level = before, level
        structlog.reset_defaults()


def secrets_of(value: Any) -> Iterator[str]:
    """Every secret in settings; of a URL what must not be seen of it: its password, or its path where it has one."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from secrets_of(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from secrets_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from secrets_of(each)
    elif isinstance(value, SecretStr):
        text = value.get_secret_value()
        url = urlsplit(text)
        if url.scheme and url.netloc:
            yield from (part for part in (url.password, url.path if url.scheme.startswith("http") else None) if part)
        elif text:
            yield text


def spellings(secret: str) -> set[str]:
    plain = {secret, secret.removeprefix("whsec_"), quote(secret, safe=""), quote_plus(secret)}
    return plain | {base64.b64encode(f"{text}{end}".encode()).decode().rstrip("=") for text in plain for end in ("", ":")}


class Texts:
    """Everything that is shown while a destination is in trouble."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.troubles = 0

    def hear(self, error: BaseException) -> None:
        self.troubles += 1
        self.found += [str(error), repr(error), getattr(error, "hint", ""), "".join(traceback.format_exception(error))]
        structlog.get_logger("tests").warning("trouble", error=str(error), exc_info=error)

    def receive(self, receipts: list[Receipt | None] | list[Receipt]) -> None:
        self.found += [repr(receipt) for receipt in receipts]

    def go(self, destination: Destination, troubles: int) -> None:
        """Send until there was so much trouble, or it is over."""
        enough = self.troubles + troubles
        self.found.append(repr(destination))
        try:
            self.receive(
                send(destination, batch(events(2)), stop=lambda: self.troubles >= enough, on_trouble=self.hear, backoff=QUICK)
            )
        except Interrupted as error:
            self.receive(error.receipts)
        with suppress(CdcTrackerError):
            try:
                destination.probe()
            except CdcTrackerError as error:
                self.hear(error)
                raise
        destination.close()

    def lack(self, settings: BaseModel, log: io.StringIO, secrets: Collection[str]) -> bool:
        """Whether none of the secrets is in there, however it is spelled."""
        assert secrets
        text = "\n".join([*self.found, repr(settings), str(settings), settings.model_dump_json(), log.getvalue()])
        assert "trouble" in text
        return not any(spelling in text for secret in secrets for spelling in spellings(secret))


WITH_SECRETS = [name for name in HTTP if name != "snowplow"]  # a collector knows no keys


@pytest.mark.invariant(12)
@pytest.mark.parametrize("kit", WITH_SECRETS, indirect=True)
def test_a_vendor_that_repeats_the_request_gives_no_secret_away(kit: Kit, log: io.StringIO) -> None:
    assert isinstance(kit.open, Opener)
    assert kit.server is not None
    texts = Texts()
    for status in (301, 400, 401, 413, 422, 429, 500):
        kit.server.always(Echo(status))
        texts.go(kit.open(), 2)
    kit.server.always(Cut())
    texts.go(kit.open(), 2)
    assert texts.lack(kit.open.settings, log, set(secrets_of(kit.open.settings)))


@pytest.mark.invariant(12)
@pytest.mark.parametrize("kit", WITH_SECRETS, indirect=True)
def test_a_vendor_that_cannot_be_reached_or_trusted_gives_no_secret_away(
    kit: Kit, log: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(kit.open, Opener)
    assert kit.server is not None
    texts = Texts()
    with kit.server.over_tls(authority(tmp_path).server) as port:
        texts.go(kit.open.moved(kit.server.url, f"https://127.0.0.1:{port}")(), 2)
    texts.go(kit.open.moved(kit.server.url, f"http://127.0.0.1:{closed_port()}", timeout="2s")(), 2)
    monkeypatch.setenv("HTTP_PROXY", f"http://someone:s3same@127.0.0.1:{closed_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    texts.go(kit.open(), 2)
    assert texts.troubles >= 6
    assert texts.lack(kit.open.settings, log, set(secrets_of(kit.open.settings)))
    assert "s3same" not in "".join(texts.found) + log.getvalue()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


PASSWORD = "s3same/opEn+up"
SASL = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "shop", "sasl.password": PASSWORD}
ENGINES: dict[str, dict[str, Any]] = {
    "sql-postgresql": {"type": "sql", "url": "postgresql://shop:{password}@127.0.0.1:{port}/shop"},
    "sql-mysql": {"type": "sql", "url": "mysql://shop:{password}@127.0.0.1:{port}/shop"},
    "redis": {"url": "redis://shop:{password}@127.0.0.1:{port}/0", "stream": "shop"},
    "rabbitmq": {"url": "amqp://shop:{password}@127.0.0.1:{port}/%2F", "exchange": "shop"},
    "kafka": {"brokers": "127.0.0.1:{port}", "topic": "shop", "transactions": False, "timeout": "1s", "config": SASL},
    "nats": {"url": "nats://shop:{password}@127.0.0.1:{port}"},
}


@pytest.mark.invariant(12)
@pytest.mark.parametrize("name", ENGINES)
def test_a_server_that_is_not_there_gives_no_secret_away(name: str, log: io.StringIO, tmp_path: Path) -> None:
    given = {"type": name, **ENGINES[name]}
    kind = given.pop("type")
    put = {"password": quote(PASSWORD, safe=""), "port": closed_port()}
    opened = made(
        kind, tmp_path, **{key: value.format(**put) if isinstance(value, str) else value for key, value in given.items()}
    )
    texts = Texts()
    texts.go(opened(), 2)
    assert texts.troubles >= 2
    assert texts.lack(opened.settings, log, {PASSWORD})
