"""Logs: JSON for machines, or lines for people on a terminal. Secrets are redacted anywhere in an entry."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from pydantic import BaseModel, ConfigDict, SecretStr

from cdc_tracker.printable import printable

HIDDEN = "**********"
_SECRET_KEY = re.compile(r"(?i)(^|_)(password|passwd|pwd|secret|token|api_?key|write_?key|authorization|credentials?)$")
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/]*(?=@)", re.IGNORECASE)
_CONNINFO_PASSWORD = re.compile(r"\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)
_WEBHOOK_SECRET = re.compile(r"\bwhsec_[A-Za-z0-9+/=]+")
_QUIET = ("httpx", "httpcore", "alembic", "sqlalchemy.engine")  # they log each request or statement at INFO


class LogSettings(BaseModel):
    """The `log:` part of the configuration. `auto` writes lines for people if the output is a terminal, else JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with the passwords of URLs and conninfo strings, and each of `secrets`, replaced."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _URL_PASSWORD.sub(rf"\g<1>{HIDDEN}", text)
    text = _CONNINFO_PASSWORD.sub(rf"\g<1>{HIDDEN}", text)
    return _WEBHOOK_SECRET.sub(HIDDEN, text)


def is_secret(key: str) -> bool:
    """Whether the value of a key with this name is a secret."""
    return _SECRET_KEY.search(key) is not None


class Redaction:
    """The last processor before an entry is rendered: replaces secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first: a secret can contain another one. Very short ones would match ordinary words.
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def __call__(self, _logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: self._value(key, value) for key, value in entry.items()}

    def _value(self, key: str, value: object) -> object:
        if isinstance(value, SecretStr) or (is_secret(key) and value is not None):
            return HIDDEN
        if isinstance(value, str):
            return hide(value, self._secrets)
        if isinstance(value, dict):
            return {inner: self._value(str(inner), nested) for inner, nested in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value("", nested) for nested in value]
        if isinstance(value, int | float | bool | None):
            return value
        return hide(str(value), self._secrets)


def _for_people(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escapes what a terminal would interpret. JSON needs no such step."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in entry.items()}


def set_up(settings: LogSettings, *, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Sends every log line of this process, those of libraries too, to `stream` (default: standard error)."""
    out = stream or sys.stderr
    people = settings.format == "text" or (settings.format == "auto" and out.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,  # before the redaction: a traceback can carry a URL
            Redaction(secrets),
            *(
                [_for_people, structlog.dev.ConsoleRenderer(colors=out.isatty())]
                if people
                else [structlog.processors.JSONRenderer()]
            ),
        ],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # roles call set_up again after a reload and after a fork
    )
