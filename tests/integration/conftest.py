"""What the tests of the command line begin with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cdc_tracker.cli import cli
from tests.integration.folder import SCHEMA, Run
from tests.postgres import Database


@pytest.fixture
def place(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder beside a database with a small shop."""
    for name in [*os.environ]:
        if name.startswith("CDC_TRACKER_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CDC_TRACKER_HTTP__PORT", "null")
    monkeypatch.setenv("CDC_TRACKER_SOURCE__SLOT", database.name)  # slots are the server's, which tests share
    monkeypatch.chdir(tmp_path)
    database.execute(SCHEMA)
    return tmp_path


@pytest.fixture
def run(place: Path) -> Run:
    def invoke(*arguments: str, code: int = 0, typed: str = "") -> Result:
        told = CliRunner().invoke(cli, arguments, input=typed, prog_name="cdc-tracker")
        assert told.exit_code == code, told.output
        return told

    return invoke


@pytest.fixture
def ready(run: Run, database: Database) -> Run:
    """After `init` and `setup`."""
    run("init", "--url", database.url)
    run("setup")
    return run
