"""What the HTTP destinations share: one client, what each status means, and no secret in any text."""

from __future__ import annotations

import base64
import gzip
import math
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

import httpx
from pydantic import Field

from cdc_tracker import __version__
from cdc_tracker.destinations.base import DestinationSettings
from cdc_tracker.errors import ConfigError, DestinationBlocked, DestinationUnavailable, TooLarge, Unexplained
from cdc_tracker.units import Duration

_ANSWER_BYTES = 1024**2  # of an answer's body; the rest is not read. Room for a reason to each event of a batch
_QUOTED = 300  # characters of an answer that go into an error
_LATER = (408, 425, 429)
_UNTRUSTED = "its certificate is not trusted here: where that is expected, name a file with its CA as `ca`"
_BLOCKED = {
    401: "it does not know these credentials: correct them",
    403: "these credentials may not send: correct them, or have them allowed",
    404: "nothing answers at this path, or the source is disabled there: correct the address",
    405: "this path takes no POST: correct the address",
    407: "a proxy on the way wants credentials",
    410: "the endpoint was removed for good: correct the address, or remove the destination",
}


class HttpSettings(DestinationSettings):
    timeout: Duration = Field(default=30.0, gt=0, description="for connecting, for each read and write, and for the whole answer")
    verify: bool = Field(default=True, description="false: accept any TLS certificate")
    ca: Path | None = Field(default=None, description="a file of CA certificates to trust instead of the usual ones")
    compression: Literal["none", "gzip"] = "none"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: httpx.Headers
    text: str
    place: str = ""  # scheme and host that it came from

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


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
    """POSTs to one URL, or where a call names it to another. Every failure becomes one of ours; redirects are not followed.

    Safe to use from several threads.
    """

    def __init__(self, url: str, settings: HttpSettings, base: Path, secrets: Sequence[str] = ()) -> None:
        """`secrets` are blotted out of every text. Of the URL only the host is ever shown: its path may be a secret too."""
        self._url = httpx.URL(url)
        self._timeout = settings.timeout
        self._gzip = settings.compression == "gzip"
        self._secrets = _spellings([*secrets, url])
        self._client = httpx.Client(
            verify=_tls(settings, base),
            timeout=settings.timeout,
            limits=httpx.Limits(max_connections=settings.in_flight, max_keepalive_connections=settings.in_flight),
            headers={"User-Agent": f"cdc-tracker/{__version__}", "Accept": "application/json, */*"},
            follow_redirects=False,
        )

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
        if 300 <= status < 400:
            raise DestinationBlocked(text, hint="it redirects, and redirects are not followed: set the address it points to")
        if status in _BLOCKED:
            raise DestinationBlocked(text, hint=_BLOCKED[status], retry_after=retry_after(reply.headers))
        if status in _LATER or status >= 500:
            raise DestinationUnavailable(text, retry_after=retry_after(reply.headers))
        raise TooLarge(text) if status == 413 else Unexplained(text)

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
        deadline = time.monotonic() + self._timeout
        try:
            with self._client.stream(method, target, content=body, headers=headers) as response:
                return Reply(response.status_code, response.headers, self._read(response, deadline), place)
        except httpx.TimeoutException:
            text = f"no answer from {place} within {self._timeout:g} s; whether it took the batch is not known"
            raise DestinationUnavailable(text, hint="if it is slow rather than away, raise `timeout`") from None
        except httpx.HTTPError as error:
            said = self._redacted(str(error)) or type(error).__name__
            hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in said else ""
            raise DestinationUnavailable(f"cannot reach {place}: {said}", hint=hint) from None

    def _read(self, response: httpx.Response, deadline: float) -> str:
        """The beginning of the body. An answer that drips must not hold us up for ever."""
        read = b""
        for piece in response.iter_bytes():
            read += piece
            if len(read) > _ANSWER_BYTES:
                break
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer took too long")
        return read[:_ANSWER_BYTES].decode(errors="replace")

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `Retry-After` (seconds or an HTTP date) or `X-RateLimit-Reset` (seconds, or epoch seconds)."""
    text = headers.get("retry-after") or headers.get("x-ratelimit-reset") or ""
    now = _moment(headers.get("date", "")) or datetime.now(UTC).timestamp()
    try:
        seconds = float(text)
    except ValueError:
        moment = _moment(text)
        return None if moment is None else max(0.0, moment - now)
    if not math.isfinite(seconds):
        return None
    return max(0.0, seconds - now if seconds > 1e9 else seconds)


def _moment(text: str) -> float | None:
    """An HTTP date as epoch seconds. The server's own Date is the one to compare with: clocks differ."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _spellings(secrets: Sequence[str]) -> list[str]:
    """The secrets as an error or an echoing server might show them, the longest first."""
    plain = {secret for secret in secrets if secret}
    basic = {base64.b64encode(f"{secret}:".encode()).decode() for secret in plain}
    return sorted(plain | basic | {quote(secret, safe="") for secret in plain}, key=len, reverse=True)


def _tls(settings: HttpSettings, base: Path) -> ssl.SSLContext | bool:
    if settings.ca is None or not settings.verify:
        return settings.verify
    path = base / settings.ca
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"`ca`: cannot read certificates from {path}: {error.strerror or error}") from error
