"""Events as messages of NATS JetStream, each publish acknowledged by the stream.

`Nats-Msg-Id` is the event's id: a stream drops an id that it had within its window (`duplicate_window`, two minutes by default),
and says so in its acknowledgement.

The client uses asyncio: it runs on an event loop in its own thread. It neither reconnects by itself nor buffers messages: what is
not acknowledged in time is sent again by the core.

Sources: NATS' documentation of JetStream's publish acknowledgements, headers and error codes; nats-py's source. Tested against
nats-server 2.9.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from nats import errors
from nats.js.errors import NotFoundError, ServiceUnavailableError
from pydantic import Field, SecretStr, field_validator

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.nats.wire import GONE, LATE, PAYLOAD, UNHEARD, Loop, Refusal, Wire
from cdc_tracker.destinations.support.formats import FormatSettings
from cdc_tracker.destinations.support.name_templates import NameTemplate, check_template, literal
from cdc_tracker.destinations.support.naming import legal_id
from cdc_tracker.destinations.support.urls import of_scheme, passwords, redacted, said
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import DELIVERED, Batch, Outcome, Receipt
from cdc_tracker.units import Duration, Size

_SUBJECT = 3_900  # bytes: with the inbox and the sizes it must fit a control line of 4 KB
_TOO_LARGE = (10054, PAYLOAD)  # the stream's max_msg_size
_OTHER_STREAM = 10060  # Nats-Expected-Stream names another
_LOGIN = ("authorization violation", "authentication", "user credentials", "nkey", "account")


class NatsSettings(FormatSettings):
    template: ClassVar[str] = "subject"

    type: Literal["nats"] = "nats"
    url: list[Annotated[SecretStr, of_scheme("nats", "tls", "ws", "wss")]] = Field(
        min_length=1, description="nats://[USER:PASSWORD@]HOST:PORT or tls://…; a list for a cluster"
    )
    subject: str = Field(
        default="cdc_tracker.{type}.{event}", description="{event}, {type}, {schema} and {table} stand for the event's own"
    )
    stream: str | None = Field(default=None, min_length=1, description="take acknowledgements of no other stream")
    credentials: Path | None = Field(default=None, description="a .creds file")
    event_size: Size = Field(default=1_000_000, ge=1_000, description="the largest event; servers take 1 MB by default")
    timeout: Duration = Field(default=30.0, gt=0, description="for connecting, and for all acknowledgements of a batch")

    @field_validator("url", mode="before")
    @classmethod
    def _listed(cls, url: object) -> object:
        return [url] if isinstance(url, str | SecretStr) else url

    @field_validator("subject")
    @classmethod
    def _template(cls, subject: str) -> str:
        if any(sign.isspace() or sign in "*>" for sign in subject):
            raise ValueError("must have neither spaces nor wildcards")
        if not all(literal(check_template(subject)).split(".")):
            raise ValueError("must have something between two dots, before the first and behind the last")
        return subject


class NatsDestination:
    """DELIVERED means that the stream has stored the message, on as many servers as it has replicas."""

    Settings: ClassVar[type[DestinationSettings]] = NatsSettings
    guarantee: ClassVar[Guarantee] = "once within the vendor's window"
    duplicate_handling: ClassVar[str] = "drops it by its Nats-Msg-Id within the stream's duplicate window (2 minutes by default)"
    dedupe_window: ClassVar[float] = 120.0
    age_limit: ClassVar[float] = float("inf")

    def __init__(self, name: str, settings: NatsSettings, base: Path) -> None:
        self.limits = Limits(1_000, 4 * 1024**2, settings.event_size, in_flight=settings.in_flight)
        self._settings = settings
        self._credentials = base / settings.credentials if settings.credentials else None
        self._names = NameTemplate(settings.subject, _token, _SUBJECT)
        self._loop = Loop()
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._last_error = ""  # the last asynchronous error

    def deliver(self, batch: Batch) -> list[Receipt]:
        wire = self._connected()
        try:
            answers = self._loop.run(self._publish(wire, batch))
        except (errors.Error, OSError) as error:
            self._discard(wire)
            raise self._translated(error) from None
        if any(answer is not None and answer.code in (LATE, GONE) for answer in answers):
            self._discard(wire)
        refused = [answer for answer in answers if answer is not None]
        if refused and len(refused) == len(answers) and not any(answer.code in _TOO_LARGE for answer in refused):
            raise self._error_of_all(batch, refused[0])
        return [self._receipt(answer) for answer in answers]

    def probe(self) -> None:
        wire = self._connected()
        jetstream = wire.client.jetstream(timeout=self._settings.timeout)
        try:
            self._loop.run(jetstream.account_info())
            if self._settings.stream:
                self._loop.run(jetstream.stream_info(self._settings.stream))
        except (errors.Error, OSError) as error:
            self._discard(wire)
            raise self._translated(error) from None

    def close(self) -> None:
        if self._wire is not None:
            self._discard(self._wire)
        self._loop.close()

    def __str__(self) -> str:
        hosts = [urlsplit(url.get_secret_value()) for url in self._settings.url]
        return "NATS at " + ", ".join(f"{host.hostname}:{host.port or 4222}" for host in hosts)

    def _connected(self) -> Wire:
        with self._lock:
            if self._wire is None or not self._wire.client.is_connected:
                self._last_error = ""
                self._wire = self._connect()
            return self._wire

    def _connect(self) -> Wire:
        """Connects to the first server that accepts."""
        failed: Exception | None = None
        for url in self._settings.url:
            try:
                return self._loop.run(self._open(url.get_secret_value()))
            except (errors.Error, OSError, ValueError, ImportError) as error:
                failed = error
        raise self._translated(failed or OSError("no server")) from None

    async def _open(self, url: str) -> Wire:
        wire = Wire()
        more: dict[str, Any] = {"user_credentials": str(self._credentials)} if self._credentials else {}
        try:
            connecting = wire.client.connect(
                url,
                name="cdc-tracker",
                allow_reconnect=False,
                max_reconnect_attempts=1,  # limits the first connection, too
                reconnect_time_wait=0,
                error_cb=self._record_error,
                disconnected_cb=wire.cut,
                **more,
            )
            await asyncio.wait_for(connecting, self._settings.timeout)
            await wire.listen()
        except BaseException:
            await wire.client.close()
            raise
        return wire

    async def _record_error(self, error: Exception) -> None:
        self._last_error = str(error)

    async def _publish(self, wire: Wire, batch: Batch) -> list[Refusal | None]:
        """Returns for each event the reason why it was not taken; None if it was."""
        pending = []
        for event in batch.events:
            headers = {"Nats-Msg-Id": legal_id(event.message_id, _is_header), "Cdc-Tracker-Type": event.type}
            if self._settings.stream:
                headers["Nats-Expected-Stream"] = self._settings.stream
            pending.append(await wire.publish(self._names.name(event), event.body, headers))
        return await wire.answers(pending, self._settings.timeout)

    def _error_of_all(self, batch: Batch, refusal: Refusal) -> CdcTrackerError:
        """Returns the error to raise if no event was taken."""
        if refusal.code == UNHEARD:
            return self._no_responder(self._names.name(batch.events[0]))
        if refusal.code == LATE:
            return self._translated(TimeoutError())
        if refusal.code == _OTHER_STREAM:
            return DestinationBlocked(f"{self}: {refusal.text}", hint="correct `stream` or `subject`")
        return self._translated(OSError(refusal.text))

    def _no_responder(self, subject: str) -> CdcTrackerError:
        """The error if nothing responded: no stream has the subject, or JetStream is not available (yet)."""
        text = f"{self}: no stream answers for {subject}"
        try:
            client = self._connected().client
            self._loop.run(client.jetstream(timeout=self._settings.timeout).find_stream_name_by_subject(subject))
        except NotFoundError:
            return DestinationBlocked(
                text, hint=f"create a stream with that subject: nats stream add --subjects '{subject}' NAME"
            )
        except (errors.Error, CdcTrackerError, OSError):
            return DestinationUnavailable(
                f"{self}: JetStream does not answer", hint="check that it is enabled (-js) and has a leader"
            )
        return DestinationUnavailable(text)

    def _translated(self, error: BaseException) -> CdcTrackerError:
        what = said(error)
        if isinstance(error, NotFoundError):
            return DestinationBlocked(f"{self}: {error.description}", hint="create the stream, or correct `stream`")
        if isinstance(error, ServiceUnavailableError | errors.NoRespondersError):
            return DestinationUnavailable(f"{self}: {what}", hint="check that JetStream is enabled (-js) and has a leader")
        if isinstance(error, TimeoutError):
            what = f"no answer within {self._settings.timeout:g} s"
        text = redacted(f"{self}: {what}" + (f" ({self._last_error})" if self._last_error else ""), self._secrets())
        if "permissions violation" in text.lower():
            return DestinationBlocked(text, hint="allow its user to publish to the subjects, and to subscribe to _INBOX.>")
        if isinstance(error, errors.AuthorizationError) or any(sign in text.lower() for sign in _LOGIN):
            return DestinationBlocked(text, hint="correct the credentials in `url` or `credentials`")
        return DestinationUnavailable(text)

    def _receipt(self, refusal: Refusal | None) -> Receipt:
        if refusal is None:
            return DELIVERED
        if refusal.code in _TOO_LARGE:
            return Receipt(Outcome.REJECTED, "event_too_large", detail=f"{self}: {refusal.text}")
        return Receipt(Outcome.RETRY, f"{self}: {refusal.text}")

    def _secrets(self) -> list[str]:
        urls = [url.get_secret_value() for url in self._settings.url]
        return [secret for url in urls for secret in (*passwords(url), urlsplit(url).username or "")]  # a token is a user's name

    def _discard(self, wire: Wire) -> None:
        with self._lock:
            if self._wire is wire:
                self._wire = None
        with suppress(errors.Error, OSError):  # it is closed either way
            self._loop.run(wire.client.close())


def _token(text: str) -> str:
    """One token of a subject."""
    return "".join(["_" if sign.isspace() or sign in ".*>\0" else sign for sign in text])


def _is_header(text: str) -> bool:
    """Whether a header keeps the text: the client strips spaces and replaces newlines, and different ids would become equal."""
    return text.isprintable() and text == text.strip() and len(text.encode()) <= _SUBJECT
