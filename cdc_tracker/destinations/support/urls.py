"""URLs that hold credentials, and texts of errors without them."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, SecretStr


def of_scheme(*schemes: str) -> AfterValidator:
    """Validates a setting that is a secret URL: it must have one of the schemes."""
    *others, last = (f"{scheme}://" for scheme in schemes)
    expected = f"must begin with {', '.join(others)} or {last}"

    def checked(url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in schemes:
            raise ValueError(expected)
        return url

    return AfterValidator(checked)


def passwords(url: str) -> list[str]:
    """The password of a URL as it is written, and as a server may repeat it; empty if there is none, or if it is no URL."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return []
    return list({password, unquote(password)}) if password else []


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets. Name one that contains another first."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def said(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """An error's text in one line, without the secrets; its class if it has no text."""
    return redacted(" ".join(str(error).split()), secrets) or type(error).__name__
