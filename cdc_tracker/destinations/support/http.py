"""One HTTP client for all destinations: it maps each status to an error, and keeps secrets out of every text."""

from __future__ import annotations

import base64
import gzip
import logging
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec
from pydantic import AfterValidator, Field

from cdc_tracker import __version__
from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.destinations.support.deadline import bounded, within
from cdc_tracker.destinations.support.urls import redacted, said
from cdc_tracker.errors import BatchRejected, ConfigError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import Outcome, Receipt
from cdc_tracker.units import Duration

T = TypeVar("T")
_log = logging.getLogger("cdc_tracker.http")

_ANSWER_BYTES = 4 * 1024**2  # of an answer's body; the rest is not read. Room for a reason to each of 10,000 events
_QUOTED = 300  # characters of an answer that go into an error
_UNTRUSTED = "its certificate is not trusted here: if that is expected, set `ca` to a file with its CA"
_OF_EVENTS = (400, 422)  # the content is at fault, perhaps a single event
_LATER = (408, 425, 429)
_OTHER = "the status is about the request, not about an event, so nothing is parked: correct the settings, or a proxy in between"
_BLOCKED = {
    401: "it does not accept these credentials: correct them",
    402: "the account there must be paid, or its quota raised",
    403: "these credentials may not send: correct them, or grant them access",
    404: "nothing is at this path, or the source is disabled there: correct the address",
    405: "this path does not accept POST: correct the address",
    407: "a proxy in between requires credentials",
    410: "the endpoint was removed for good: correct the address, or remove the destination",
    415: "it does not accept this kind of body: if `compression` is set, try `none`",
    501: "it does not support POST: correct the address",
    505: "it does not support HTTP/1.1: correct the address",
    511: "a network in between requires a login",
}
_WAIT = re.compile(r"-?[0-9]+(\.[0-9]*)?")  # seconds, perhaps since the epoch
_LONGEST_WAIT = 30 * 86_400.0
UNREADABLE = "answer_unreadable"  # the reason of an event that is assumed because the answer says nothing about it


class HttpSettings(DestinationSettings):
    """The settings of every destination over HTTP."""

    timeout: Duration = Field(default=30.0, gt=0, description="for connecting, for each 64 KB sent, and for the whole answer")
    verify: bool = Field(default=True, description="false: accept any TLS certificate")
    ca: Path | None = Field(default=None, description="a file of CA certificates to trust instead of the usual ones")
    compression: Literal["none", "gzip"] = "none"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, with as much of its body as could be read."""

    status: int
    headers: httpx.Headers
    text: str
    place: str = ""  # scheme and host that it came from
    fault: str = ""  # why the body could not be read to its end

    @property
    def ok(self) -> bool:
        """Whether the vendor took the request, even if the body cannot be read."""
        return 200 <= self.status < 300

    def read(self, decoder: msgspec.json.Decoder[T]) -> T | None:
        """The body, decoded; None if it is not JSON of this shape."""
        try:
            return decoder.decode(self.text)
        except (msgspec.DecodeError, RecursionError):
            return None


def check_url(text: str) -> str:
    """Returns the text. Raises ValueError, without the text, if it is no http(s) URL with a host and without credentials."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be a URL that begins with https:// or http://")
    if url.userinfo:
        raise ValueError("must not contain credentials: there are separate settings for them")
    return text


BaseUrl = Annotated[str, AfterValidator(lambda text: check_url(text).rstrip("/"))]
"""A setting: an http(s) URL that paths are appended to."""
OptionalUrl = Annotated[str | None, AfterValidator(lambda text: text and check_url(text).rstrip("/"))]
"""The same, for an address that is used instead of the vendor's; empty is none."""


class Http:
    """Sends requests to one URL, or to another that a call names. Every failure is a CdcTrackerError.

    It follows no redirects, keeps no cookies, and waits for no answer longer than `timeout`. Proxies come from the environment,
    credentials (`~/.netrc`) do not. Thread-safe.
    """

    def __init__(self, url: str, settings: HttpSettings, base: Path, secrets: Sequence[str] = ()) -> None:
        """`secrets` are removed from every text. Of the URL only the host is shown: its path may be a secret, too."""
        self._url = httpx.URL(url)
        self._timeout = settings.timeout
        self._gzip = settings.compression == "gzip"
        self._secrets = _spellings([*secrets, url])
        self._client = _client(settings, _tls(settings, base))

    def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        url: str | None = None,
        content_type: str = "application/json",
        packed: bool = True,
    ) -> Reply:
        """Sends the body and returns the reply, whatever its status. Raises DestinationUnavailable if there is no answer.

        `packed=False`: never compress; this URL does not support it.
        """
        sent = {"Content-Type": content_type, **headers}
        if self._gzip and packed:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            sent["Content-Encoding"] = "gzip"
        return self._request("POST", url, body, sent)

    def post_form(self, fields: Mapping[str, str], *, url: str | None = None) -> Reply:
        """Sends the fields as an HTML form, never compressed: few receivers of forms decompress."""
        return self._request("POST", url, urlencode(fields).encode(), {"Content-Type": "application/x-www-form-urlencoded"})

    def check(self, reply: Reply) -> None:
        """Raises the error that the status means; returns if it is 2xx."""
        status = reply.status
        if reply.ok:
            return
        answer = self.quoted(reply.text)
        phrase = httpx.codes.get_reason_phrase(status)
        text = f"{reply.place} answered {status} {phrase}".rstrip() + (f": {answer}" if answer else "")
        wait = retry_after(reply.headers)
        if status in _OF_EVENTS:
            raise BatchRejected(text)
        if status == 413:
            raise TooLarge(text)
        if status in _LATER or (status >= 500 and status not in _BLOCKED):
            raise DestinationUnavailable(text, retry_after=wait)
        if 300 <= status < 400:
            hint = "it redirects, and redirects are not followed: set the address that it points to"
        else:
            hint = _BLOCKED.get(status, _OTHER)
        raise DestinationBlocked(text, hint=hint, retry_after=wait)

    def unreadable(self, reply: Reply, count: int) -> list[Receipt]:
        """The receipts after a 2xx whose body cannot be read: ASSUMED, so that the events are not sent again for ever."""
        detail = f"{reply.place} answered {reply.status}, but its answer cannot be read: {reply.fault or self.quoted(reply.text)}"
        _log.warning("%s. %d events count as assumed", detail, count)
        return [Receipt(Outcome.ASSUMED, UNREADABLE, detail=detail)] * count

    def reach(self) -> None:
        """Sends a HEAD without credentials. Raises if there is no answer, or on a redirect, 410 or 5xx."""
        reply = self._request("HEAD", None, b"", {})
        if 300 <= reply.status < 400 or reply.status == 410 or (reply.status >= 500 and reply.status != 501):
            self.check(reply)

    def quoted(self, text: str) -> str:
        """A vendor's text as errors and receipts show it: one line, shortened, without secrets."""
        return " ".join(redacted(text, self._secrets).split())[:_QUOTED]

    def close(self) -> None:
        self._client.close()

    def _request(self, method: str, url: str | None, body: bytes, headers: Mapping[str, str]) -> Reply:
        target = self._url if url is None else httpx.URL(url)
        place = f"{target.scheme}://{target.netloc.decode()}"
        try:
            with within(self._timeout), self._client.stream(method, target, content=body, headers=headers) as response:
                return self._reply(response, place)
        except httpx.TimeoutException:
            text = f"no answer from {place} within {self._timeout:g} s; it may or may not have taken the batch"
            raise DestinationUnavailable(text, hint="if it is slow rather than down, raise `timeout`") from None
        except (httpx.LocalProtocolError, UnicodeEncodeError):  # its text would show the value
            names = ", ".join(headers)
            raise DestinationBlocked(
                f"a header for {place} has a value that HTTP does not allow: one of {names}",
                hint="correct the key or header in the settings: it may end with a newline or contain non-ASCII letters",
            ) from None
        except httpx.HTTPError as error:
            what = said(error, self._secrets)
            hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in what else ""
            raise DestinationUnavailable(f"cannot reach {place}: {what}", hint=hint) from None

    def _reply(self, response: httpx.Response, place: str) -> Reply:
        """A Reply with as much of the body as can be read in time: the status alone says whether the request was taken."""
        read, fault = bytearray(), ""
        try:
            for piece in response.iter_bytes():
                read += piece
                if len(read) > _ANSWER_BYTES:
                    fault = f"it is longer than {_ANSWER_BYTES} bytes"
                    break
        except httpx.TimeoutException:
            fault = f"it did not end within {self._timeout:g} s"
        except httpx.HTTPError as error:
            fault = said(error, self._secrets)
        return Reply(response.status_code, response.headers, read[:_ANSWER_BYTES].decode(errors="replace"), place, fault)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that `Retry-After` (seconds or an HTTP date) or `X-RateLimit-Reset` (seconds or epoch seconds) ask to wait, 30
    days at most. None if both are absent or malformed."""
    text = (headers.get("retry-after") or headers.get("x-ratelimit-reset") or "").strip()
    now = _moment(headers.get("date", "")) or datetime.now(UTC).timestamp()
    if _WAIT.fullmatch(text):
        seconds = float(text)
        wait = seconds - now if seconds > 1e9 else seconds
    else:
        moment = _moment(text)
        if moment is None:
            return None
        wait = moment - now
    return min(max(0.0, wait), _LONGEST_WAIT)


def _moment(text: str) -> float | None:
    """An HTTP date as epoch seconds; None if it is none. Compare it with the server's own Date: clocks differ."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):  # no date, or one out of Python's range
        return None


def _spellings(secrets: Sequence[str]) -> list[str]:
    """The secrets in every form in which an error or a server might repeat them; the longest come first."""
    plain = {secret for secret in secrets if secret}
    basic = {base64.b64encode(f"{secret}:".encode()).decode() for secret in plain}
    return sorted(plain | basic | {quote(secret, safe="") for secret in plain}, key=len, reverse=True)


def _client(settings: HttpSettings, verify: ssl.SSLContext | bool) -> httpx.Client:
    try:
        client = httpx.Client(
            verify=verify,
            timeout=settings.timeout,
            limits=httpx.Limits(max_connections=settings.in_flight, max_keepalive_connections=settings.in_flight),
            headers={
                "User-Agent": f"cdc-tracker/{__version__}",
                "Accept": "application/json, */*",
                "Accept-Encoding": "identity",
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # a collector would take all users for one browser
            follow_redirects=False,
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        raise ConfigError(
            "the environment names a proxy that cannot be used",
            hint="correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or name the destination's host in NO_PROXY",
        ) from None
    return bounded(client)


def _tls(settings: HttpSettings, base: Path) -> ssl.SSLContext | bool:
    if settings.ca is None or not settings.verify:
        return settings.verify
    path = base / settings.ca
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"`ca`: cannot read certificates from {path}: {error.strerror or error}") from error
