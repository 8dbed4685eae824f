from __future__ import annotations

from pathlib import Path

import pytest

from cdc_tracker.operations.scaffold import config_text
from cdc_tracker.worker.assemble import load_config


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:open-sesame@db/shop",
        "postgresql://db/shop?user=app&password=open-sesame",
        "host=db dbname=shop password='open-sesame'",
    ],
)
def test_a_password_is_never_written(url: str) -> None:
    text = config_text(url)
    assert "sesame" not in text
    assert "url: ${DATABASE_URL}\n" in text


@pytest.mark.parametrize(
    "url", ["postgresql://app@db:5432/shop?sslmode=require", "host=db dbname=shop", "host='my db' dbname=\"x\""]
)
def test_a_url_without_a_password_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    path = tmp_path / "cdc-tracker.yml"
    path.write_text(config_text(url))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert load_config(path).source.url.get_secret_value() == url
    monkeypatch.setenv("DATABASE_URL", "postgresql://other/db")
    assert load_config(path).source.url.get_secret_value() == "postgresql://other/db"


def test_a_url_that_would_be_taken_for_a_reference_is_left_to_the_environment() -> None:
    assert "url: ${DATABASE_URL}\n" in config_text("postgresql://db/a}b")
