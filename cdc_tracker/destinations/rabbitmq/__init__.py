"""Events as messages of RabbitMQ (AMQP 0-9-1), each confirmed.

Messages are persistent and mandatory. The broker confirms a message once every queue that it was routed to has stored it, and
returns one that is routed to no queue. Publishing does not wait for confirms, so a batch takes about one round trip.

Between batches the connection is not served. So it uses no heartbeats: the operating system's keepalive detects a lost broker,
and a confirm that does not come in time ends the connection.

Sources: RabbitMQ's guides to publisher confirms, publishers, heartbeats, alarms; the AMQP 0-9-1 reference; pika's documentation
and source. Tested against RabbitMQ 3.10.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pika
from pika import exceptions, spec
from pydantic import Field, SecretStr, field_validator

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.rabbitmq.link import UNROUTABLE, Link
from cdc_tracker.destinations.support.formats import FormatSettings
from cdc_tracker.destinations.support.name_templates import NameTemplate, check_template, literal
from cdc_tracker.destinations.support.naming import legal_id
from cdc_tracker.destinations.support.urls import of_scheme, passwords, said
from cdc_tracker.errors import CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import DELIVERED, Batch, Event, Outcome, Receipt
from cdc_tracker.units import Duration, Size

_SHORT = 255  # bytes of UTF-8 in AMQP's short strings: message ids, routing keys, names of exchanges
_BIND = "bind a queue to the exchange for it, or set `unroutable: reject` to park such events"
_BLOCKED = {
    403: "allow its user to write to the exchange",
    404: "make the exchange, or correct `exchange` and the virtual host in `url`",
    530: "correct the virtual host in `url`, or allow its user there",
}


class RabbitmqSettings(FormatSettings):
    template: ClassVar[str] = "routing_key"

    type: Literal["rabbitmq"] = "rabbitmq"
    in_flight: int = Field(
        default=1, ge=1, le=1, description="always 1: one channel, in order, with many messages ahead of the confirms"
    )
    url: Annotated[SecretStr, of_scheme("amqp", "amqps")] = Field(description="amqp[s]://USER:PASSWORD@HOST:PORT/VHOST")
    exchange: str = Field(default="", description="empty: the default one, where the routing key names a queue")
    routing_key: str = Field(
        default="{type}.{event}", description="{event}, {type}, {schema} and {table} stand for the event's own"
    )
    persistent: bool = Field(default=True, description="false: lost when the broker restarts")
    unroutable: Literal["block", "reject"] = Field(
        default="block", description="an event that no queue takes: tried again until one does, or parked"
    )
    event_size: Size = Field(default=16 * 1024**2, ge=1_000, description="the largest event; RabbitMQ 4 takes 16 MiB")
    ca: Path | None = Field(default=None, description="a file of CA certificates to trust instead of the usual ones")
    timeout: Duration = Field(default=30.0, gt=0, description="for connecting, and for all confirms of a batch")

    @field_validator("routing_key")
    @classmethod
    def _template(cls, routing_key: str) -> str:
        cls._short(literal(check_template(routing_key)))
        return routing_key

    @field_validator("exchange")
    @classmethod
    def _short(cls, text: str) -> str:
        if not _is_short(text):
            raise ValueError(f"must have at most {_SHORT} bytes, and no zero character")
        return text


class RabbitmqDestination:
    """DELIVERED means that the broker confirmed the message and did not return it."""

    Settings: ClassVar[type[DestinationSettings]] = RabbitmqSettings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = "keeps it again, under the same message_id"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: RabbitmqSettings, base: Path) -> None:
        self.limits = Limits(2_000, 8 * 1024**2, settings.event_size)
        self._settings = settings
        self._names = NameTemplate(settings.routing_key, _without_nul, _SHORT)
        self._parameters = self._parse_url(base)
        self._link: Link | None = None

    def deliver(self, batch: Batch) -> list[Receipt]:
        link = self._connected()
        try:
            with self._errors(link):
                answers = link.publish([self._message(event) for event in batch.events])
        except BaseException:
            self.close()
            raise
        if UNROUTABLE in answers and self._settings.unroutable == "block" and answers.count(UNROUTABLE) == len(answers):
            key = self._names.name(batch.events[0])
            raise DestinationBlocked(f"{self}: exchange {self._settings.exchange!r}, {key!r}: {UNROUTABLE}", hint=_BIND)
        return [self._receipt(answer) for answer in answers]

    def probe(self) -> None:
        """Connects and checks that the exchange exists."""
        link = self._open()
        try:
            if self._settings.exchange:
                with self._errors(link):
                    link.find(self._settings.exchange)
        finally:
            link.close()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def __str__(self) -> str:
        return f"RabbitMQ at {self._parameters.host}:{self._parameters.port}"

    def _parse_url(self, base: Path) -> pika.URLParameters:
        text = self._settings.url.get_secret_value()
        try:
            parameters = pika.URLParameters(text)
        except (ValueError, TypeError, exceptions.AMQPError):
            raise ConfigError("rabbitmq: `url` is invalid: write amqp://USER:PASSWORD@HOST:PORT/VHOST, with `/` as %2F") from None
        parameters.heartbeat = 0
        parameters.socket_timeout = parameters.stack_timeout = self._settings.timeout
        parameters.tcp_options = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
        parameters.client_properties = {"connection_name": "cdc-tracker"}
        if self._settings.ca is not None:
            context = ssl.create_default_context(cafile=str(base / self._settings.ca))
            parameters.ssl_options = pika.SSLOptions(context, parameters.host)
        return parameters

    def _connected(self) -> Link:
        if self._link is None or not self._link.usable:
            self.close()
            self._link = self._open()
        return self._link

    def _open(self) -> Link:
        link = Link(self._parameters, self._settings.timeout)
        try:
            with self._errors(link):
                link.open()
        except BaseException:
            link.close()
            raise
        return link

    @contextmanager
    def _errors(self, link: Link) -> Iterator[None]:
        try:
            yield
        except (exceptions.AMQPError, OSError) as error:
            raise self._translated(error, link) from None

    def _message(self, event: Event) -> tuple[str, str, bytes, spec.BasicProperties]:
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2 if self._settings.persistent else 1,
            message_id=legal_id(event.message_id, _is_short),
            type=event.type,
            app_id="cdc-tracker",
        )
        return self._settings.exchange, self._names.name(event), event.body, properties

    def _receipt(self, answer: str) -> Receipt:
        if not answer:
            return DELIVERED
        if answer == UNROUTABLE and self._settings.unroutable == "reject":
            return Receipt(Outcome.REJECTED, "unroutable", detail=f"{self}: {answer}")
        return Receipt(Outcome.RETRY, f"{self}: {answer}")

    def _translated(self, error: BaseException, link: Link) -> CdcTrackerError:
        text = f"{self}: {said(error, passwords(self._settings.url.get_secret_value()))}"
        if isinstance(error, exceptions.ProbableAuthenticationError):
            return DestinationBlocked(text, hint="correct user and password in `url`")
        if isinstance(error, exceptions.ProbableAccessDeniedError):
            return DestinationBlocked(text, hint=_BLOCKED[530])
        code = error.reply_code if isinstance(error, exceptions.ChannelClosed | exceptions.ConnectionClosed) else 0
        if code in _BLOCKED:
            return DestinationBlocked(text, hint=_BLOCKED[code])
        if code in (406, 501) and "size" in text:
            return TooLarge(text)
        if link.alarm:
            return DestinationUnavailable(f"{text}: the broker takes nothing: {link.alarm}", hint="free memory or disk there")
        return DestinationUnavailable(text)


def _is_short(text: str) -> bool:
    return len(text.encode()) <= _SHORT and "\0" not in text


def _without_nul(text: str) -> str:
    return text.replace("\0", "_")
