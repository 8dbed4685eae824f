"""URLs with credentials."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from cdc_tracker.destinations.support.urls import of_scheme, passwords, redacted, said


class Settings(BaseModel):
    url: Annotated[SecretStr, of_scheme("redis", "rediss", "unix")]


def test_another_scheme_is_refused_without_the_url() -> None:
    assert Settings.model_validate({"url": "rediss://u:p@h"}).url.get_secret_value() == "rediss://u:p@h"
    with pytest.raises(ValidationError, match="must begin with redis://, rediss:// or unix://") as caught:
        Settings.model_validate({"url": "http://u:s3cret@h"})
    assert "s3cret" not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://u:a%40b@h/", {"a%40b", "a@b"}),
        ("amqp://u:plain@h/", {"plain"}),
        ("amqp://h/", set()),
        ("amqp://[/", set()),
        ('{"password": "x"}', set()),
    ],
)
def test_a_password_is_known_as_it_is_written_and_as_a_server_repeats_it(url: str, expected: set[str]) -> None:
    assert set(passwords(url)) == expected


def test_an_errors_text_has_one_line_and_no_secret() -> None:
    assert said(OSError("login\n of u:a@b  failed"), ["a@b", ""]) == "login of u:*** failed"
    assert said(TimeoutError()) == "TimeoutError"
    assert redacted("a@b a@b", ["a@b"]) == "*** ***"
