"""What the HTTP destinations share: one client, what each status means, and no secret in any text."""

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
from typing import Literal, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec
from pydantic import Field

from cdc_tracker import __version__
from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.destinations.support.deadline import bounded, within
from cdc_tracker.errors import BatchRejected, ConfigError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import Outcome, Receipt
from cdc_tracker.units import Duration

T = TypeVar("T")
_log = logging.getLogger("cdc_tracker.http")

_ANSWER_BYTES = 4 * 1024**2  # of an answer's body; the rest is not read. Room for a reason to each of 10,000 events
_QUOTED = 300  # characters of an answer that go into an error
_UNTRUSTED = "its certificate is not trusted here: where that is expected, name a file with its CA as `ca`"
_OF_EVENTS = (400, 422)  # what was sent is at fault, perhaps a single event of it
_LATER = (408, 425, 429)
_OTHER = "it speaks of the request, not of an event, so nothing is parked: correct the settings, or what is on the way there"
_BLOCKED = {
    401: "it does not know these credentials: correct them",
    402: "the account there has to be paid, or its quota raised",
    403: "these credentials may not send: correct them, or have them allowed",
    404: "nothing answers at this path, or the source is disabled there: correct the address",
    405: "this path takes no POST: correct the address",
    407: "a proxy on the way wants credentials",
    410: "the endpoint was removed for good: correct the address, or remove the destination",
    415: "it does not take this kind of body: where `compression` is set, try `none`",
    501: "it does not know POST: correct the address",
    505: "it does not speak HTTP/1.1: correct the address",
    511: "a network on the way wants a login: correct the way there",
}
_WAIT = re.compile(r"-?[0-9]+(\.[0-9]*)?")  # seconds, perhaps since the epoch
_LONGEST_WAIT = 30 * 86_400.0
UNREADABLE = "answer_unreadable"  # the reason of an event that is assumed because the answer does not tell its fate


class HttpSettings(DestinationSettings):
    timeout: Duration = Field(
        default=30.0, gt=0, description="for connecting, for each 64 KB that is sent, and for the whole answer"
    )
    verify: bool = Field(default=True, description="false: accept any TLS certificate")
    ca: Path | None = Field(default=None, description="a file of CA certificates to trust instead of the usual ones")
    compression: Literal["none", "gzip"] = "none"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: httpx.Headers
    text: str
    place: str = ""  # scheme and host that it came from
    fault: str = ""  # why the body could not be read to its end

    @property
    def ok(self) -> bool:
        """The vendor took the request. A body that cannot be read does not change that."""
        return 200 <= self.status < 300

    def read(self, decoder: msgspec.json.Decoder[T]) -> T | None:
        """The body as JSON of this shape; None where it is not."""
        try:
            return decoder.decode(self.text)
        except (msgspec.DecodeError, RecursionError):
            return None


def check_url(text: str) -> str:
    """The text, if it is an http(s) URL with a host and without credentials in it. Raises ValueError, without the text."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be a URL that begins with https:// or http://")
    if url.userinfo:
        raise ValueError("must not hold credentials: there are settings of their own for them")
    return text


class Http:
    """POSTs to one URL, or where a call names it to another. Every failure becomes one of ours.

    Redirects are not followed, no cookie is kept, and no answer is waited for beyond `timeout`. Proxies are taken from the
    environment; credentials are not (`~/.netrc`). Safe to use from several threads.
    """

    def __init__(self, url: str, settings: HttpSettings, base: Path, secrets: Sequence[str] = ()) -> None:
        """`secrets` are blotted out of every text. Of the URL only the host is ever shown: its path may be a secret too."""
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
        """Send the body. Any status comes back; raises DestinationUnavailable where there is no answer.

        `packed=False`: this URL takes no compressed body, whatever the settings say.
        """
        sent = {"Content-Type": content_type, **headers}
        if self._gzip and packed:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            sent["Content-Encoding"] = "gzip"
        return self._request("POST", url, body, sent)

    def post_form(self, fields: Mapping[str, str], headers: Mapping[str, str], *, url: str | None = None) -> Reply:
        """Send the fields as an HTML form does. Never compressed: receivers of forms seldom unpack."""
        sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return self._request("POST", url, urlencode(fields).encode(), sent)

    def get(self, headers: Mapping[str, str], *, url: str | None = None) -> Reply:
        """Ask without sending anything: for probes."""
        return self._request("GET", url, b"", headers)

    def check(self, reply: Reply) -> None:
        """Raise what a status means, unless it is 2xx."""
        status = reply.status
        if reply.ok:
            return
        said = self.quoted(reply.text)
        phrase = httpx.codes.get_reason_phrase(status)
        text = f"{reply.place} answered {status} {phrase}".rstrip() + (f": {said}" if said else "")
        wait = retry_after(reply.headers)
        if status in _OF_EVENTS:
            raise BatchRejected(text)
        if status == 413:
            raise TooLarge(text)
        if status in _LATER or (status >= 500 and status not in _BLOCKED):
            raise DestinationUnavailable(text, retry_after=wait)
        if 300 <= status < 400:
            hint = "it redirects, and redirects are not followed: set the address it points to"
        else:
            hint = _BLOCKED.get(status, _OTHER)
        raise DestinationBlocked(text, hint=hint, retry_after=wait)

    def unreadable(self, reply: Reply, count: int) -> list[Receipt]:
        """The receipts of events that a 2xx took, but whose fates its body does not tell: they are not sent again for ever."""
        detail = f"{reply.place} answered {reply.status}, but its answer cannot be read: {reply.fault or self.quoted(reply.text)}"
        _log.warning("%s. %d events count as assumed", detail, count)
        return [Receipt(Outcome.ASSUMED, UNREADABLE, detail=detail)] * count

    def reach(self) -> None:
        """Ask for the URL's headers (HEAD), without credentials. Anything that answers will do, but a fault or 410."""
        reply = self._request("HEAD", None, b"", {})
        if 300 <= reply.status < 400 or reply.status == 410 or (reply.status >= 500 and reply.status != 501):
            self.check(reply)

    def quoted(self, text: str) -> str:
        """A vendor's words as an error or a receipt may show them: one line, not too long, without our secrets."""
        return " ".join(self._redacted(text).split())[:_QUOTED]

    def close(self) -> None:
        self._client.close()

    def _request(self, method: str, url: str | None, body: bytes, headers: Mapping[str, str]) -> Reply:
        target = self._url if url is None else httpx.URL(url)
        place = f"{target.scheme}://{target.netloc.decode()}"
        try:
            with within(self._timeout), self._client.stream(method, target, content=body, headers=headers) as response:
                return self._reply(response, place)
        except httpx.TimeoutException:
            text = f"no answer from {place} within {self._timeout:g} s; whether it took the batch is not known"
            raise DestinationUnavailable(text, hint="if it is slow rather than away, raise `timeout`") from None
        except (httpx.LocalProtocolError, UnicodeEncodeError):  # its text would show the value
            names = ", ".join(headers)
            raise DestinationBlocked(
                f"a header for {place} has a value that HTTP does not take: one of {names}",
                hint="correct the key or header in the settings: it may end with a newline, or hold letters beyond ASCII",
            ) from None
        except httpx.HTTPError as error:
            said = self._redacted(str(error)) or type(error).__name__
            hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in said else ""
            raise DestinationUnavailable(f"cannot reach {place}: {said}", hint=hint) from None

    def _reply(self, response: httpx.Response, place: str) -> Reply:
        """With the beginning of the body, as far as it can be read in time: the head alone says whether the request was taken."""
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
            fault = self._redacted(str(error)) or type(error).__name__
        return Reply(response.status_code, response.headers, read[:_ANSWER_BYTES].decode(errors="replace"), place, fault)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `Retry-After` (seconds or an HTTP date) or `X-RateLimit-Reset` (seconds, or epoch seconds), 30 days at
    most. None where they say nothing that can be understood."""
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
    """An HTTP date as epoch seconds. The server's own Date is the one to compare with: clocks differ."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):  # no date, or one that Python cannot hold
        return None


def _spellings(secrets: Sequence[str]) -> list[str]:
    """The secrets as an error or an echoing server might show them, the longest first."""
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
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # a collector would take all people for one browser
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
