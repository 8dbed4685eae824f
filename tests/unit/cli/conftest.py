from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cdc_tracker.cli import cli
from cdc_tracker.config.config import Config
from cdc_tracker.state import SourceRecord, State
from cdc_tracker.worker.assemble import load_config

CONFIG = """\
version: 1
source: {url: postgresql://nobody@127.0.0.1:1/nowhere}
mappings: [mappings/]
destinations:
  events: {type: jsonl, path: out/}
  hook: {type: memory}
"""
MAPPING = """\
version: 1
events:
  - name: Order Paid
    table: shop.orders
    on: [update]
    when: entered(new.status, 'paid')
    user_id: new.user_id
    properties: {order_id: new.id}
    examples:
      - old: {status: pending}
        new: {id: 7, user_id: 3, status: paid}
        event: {event: Order Paid, userId: "3", properties: {order_id: 7}}
"""
RECORD = SourceRecord("main", "7", "shop", "cdc_tracker", "pgoutput", "00000000-0000-0000-0000-000000000001", 1, 100, 100, 1)

Run = Callable[..., Result]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and a mapping, and the current one."""
    for name in list(os.environ):
        if name.startswith("CDC_TRACKER_"):
            monkeypatch.delenv(name)
    (tmp_path / "cdc-tracker.yml").write_text(CONFIG)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "orders.yml").write_text(MAPPING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place: Path) -> Run:
    def invoke(*arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(cli, arguments, input=typed, prog_name="cdc-tracker")

    return invoke


@pytest.fixture
def config(place: Path) -> Config:
    return load_config(place / "cdc-tracker.yml")


@pytest.fixture
def state(config: Config) -> Iterator[State]:
    """The state store of a source that is set up."""
    config.data.mkdir()
    with State.open(config.state_url) as opened:
        opened.sources.save(RECORD)
        yield opened
