from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from pydantic import SecretStr

from cdc_tracker import logs
from cdc_tracker.logs import LogSettings


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def logged(output: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_an_entry_is_one_line_of_json_where_nobody_watches() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(), stream=out)
    structlog.get_logger("capture").info("streaming", slot="cdc_tracker", lag=3)
    [entry] = logged(out)
    assert entry["event"] == "streaming"
    assert (entry["slot"], entry["lag"], entry["level"], entry["logger"]) == ("cdc_tracker", 3, "info", "capture")


def test_text_is_for_people() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(format="text"), stream=out)
    structlog.get_logger("capture").info("streaming", slot="cdc_tracker")
    assert "streaming" in out.getvalue()
    assert "slot=cdc_tracker" in out.getvalue()


def test_entries_of_libraries_come_the_same_way_and_below_the_level_none_does() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(level="warning"), stream=out)
    logging.getLogger("some.library").warning("pool is %s", "full")
    logging.getLogger("some.library").info("chatter")
    structlog.get_logger().debug("nor this")
    assert [entry["event"] for entry in logged(out)] == ["pool is full"]


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:open-sesame@db/shop is away",
        "host=db password=open-sesame dbname=shop",
        "host=db password='open-sesame' dbname=shop",
        "postgresql://db/shop?user=app&password=open-sesame&sslmode=require",
        "signed with whsec_open-sesame",
    ],
)
def test_passwords_in_urls_and_conninfo_strings_are_hidden(text: str) -> None:
    assert "sesame" not in logs.hide(text, ["whsec_open-sesame"])
    assert "open-sesame" in text


def test_a_url_without_a_password_stays_as_it_is() -> None:
    for url in ("postgresql://app@db:5432/shop", "https://api.segment.io/v1/batch", "host=db dbname=shop"):
        assert logs.hide(url) == url


@pytest.mark.invariant(12)
def test_no_secret_passes_wherever_it_stands_in_an_entry() -> None:
    out = io.StringIO()
    logs.set_up(LogSettings(), secrets=["wk-12345"], stream=out)
    log = structlog.get_logger()
    log.warning(
        "refused wk-12345",
        write_key="anything",
        settings={"password": "p", "url": "postgresql://u:geheim@h/d", "list": ["wk-12345"]},
        secret=SecretStr("s3cret"),
        detail=ValueError("bad wk-12345"),
    )
    try:
        raise ValueError("postgresql://u:geheim@h/d")
    except ValueError:
        log.exception("failed")
    text = out.getvalue()
    for secret in ("wk-12345", "anything", "geheim", "s3cret", '"p"'):
        assert secret not in text
    assert "ValueError" in text
    assert len(logged(out)) == 2


def test_what_a_vendor_says_is_not_obeyed_by_the_terminal() -> None:
    output = io.StringIO()
    logs.set_up(LogSettings(format="text"), stream=output)
    structlog.get_logger("test").error("refused: \x1b[2J", error="\x9b2J\x1b]0;owned\x07", hint="Größe")
    assert "\\u001b[2J" in output.getvalue()
    assert "Größe" in output.getvalue()
    assert not {found for found in output.getvalue() if not (found.isprintable() or found == "\n")}
