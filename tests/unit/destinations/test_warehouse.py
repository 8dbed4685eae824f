"""What is special to loading through dlt: what counts, what is left behind, and what dlt does to the process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError

from cdc_tracker.destinations.warehouse import WarehouseDestination, WarehouseSettings
from cdc_tracker.errors import CdcTrackerError, ConfigError, DestinationUnavailable
from cdc_tracker.model import Batch, Position
from tests.vendors.kit import batch, event, events, raw_event

Opened = Callable[..., WarehouseDestination]
FILE = "events.duckdb"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made: list[WarehouseDestination] = []

    def open_it(**settings: object) -> WarehouseDestination:
        given = {"engine": "duckdb", "credentials": FILE} | settings
        made.append(WarehouseDestination("shop", WarehouseSettings.model_validate(given), tmp_path))
        return made[-1]

    yield open_it
    for one in made:
        one.close()


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(folder / FILE)) as connection:
        return connection.execute(query).fetchall()


def test_an_event_that_comes_again_with_other_contents_replaces_the_one_before(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch([event(0, v=1), event(1, v=1)]))
    destination.deliver(batch([event(1, v=2), event(1, v=2), event(2, v=2)]))
    found = rows(tmp_path, "SELECT message_id, properties FROM analytics.tracks ORDER BY 1")
    assert [(one[-1], json.loads(properties)["v"]) for one, properties in found] == [("0", 1), ("1", 2), ("2", 2)]


def test_columns_have_types_and_json_keeps_its_numbers(opened: Opened, tmp_path: Path) -> None:
    properties = '{"n":123456789012345678901234567890.10}'
    body = f'{{"type":"track","messageId":"0-1","properties":{properties},"timestamp":"2026-01-02T00:00:00Z"}}'
    opened(dataset="lake", table="calls").deliver(batch([raw_event(1, body)]))
    types = dict(rows(tmp_path, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'calls'"))
    assert types["timestamp"] == types["committed_at"] == "TIMESTAMP WITH TIME ZONE"
    assert types["properties"] == types["message_id"] == "VARCHAR"
    assert rows(tmp_path, "SELECT properties FROM lake.calls") == [(properties,)]


def test_a_position_counts_once_its_load_is_entered_as_done(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    for n in range(3):
        destination.deliver(batch(events(2, start=2 * n)))
    destination.close()
    [[load]] = rows(tmp_path, "SELECT max(load_id) FROM analytics._dlt_loads")
    rows(tmp_path, f"DELETE FROM analytics._dlt_loads WHERE load_id = '{load}'")  # as where it was killed before
    again = opened()
    assert again.position() == events(4)[-1].position
    again.deliver(batch(events(2, start=4)))
    assert again.position() == events(6)[-1].position
    again.close()
    assert opened().position() == events(6)[-1].position
    assert rows(tmp_path, "SELECT count(*) FROM analytics.tracks") == [(6,)]


def test_several_destinations_share_a_dataset(tmp_path: Path) -> None:
    settings = WarehouseSettings.model_validate({"engine": "duckdb", "credentials": FILE})
    one, two = (WarehouseDestination(name, settings, tmp_path) for name in ("one", "two"))
    one.deliver(batch(events(3)))
    two.deliver(batch(events(5)))
    one.close()
    two.close()
    again = WarehouseDestination("one", settings, tmp_path)
    assert again.position() == events(3)[-1].position
    again.close()
    assert rows(tmp_path, "SELECT count(*) FROM analytics.tracks") == [(5,)]


def test_the_working_folder_is_emptied_of_a_killed_load_and_does_not_grow(opened: Opened, tmp_path: Path) -> None:
    left = tmp_path / ".warehouse/shop/cdc_tracker_shop/load/normalized/1.1/new_jobs"
    left.mkdir(parents=True)
    (left / "tracks.0000000000.0.parquet").write_bytes(b"half a file")
    destination = opened()
    counts = []
    for n in range(4):
        destination.deliver(batch(events(3, start=3 * n)))
        counts.append(sum(path.is_file() for path in (tmp_path / ".warehouse").rglob("*")))
    assert not left.exists()
    assert counts[3] - counts[2] <= 1
    destination.close()
    assert not (tmp_path / ".warehouse").exists()


SCRIPT = """
import signal, sys, threading
from pathlib import Path
from cdc_tracker.destinations.warehouse import WarehouseDestination, WarehouseSettings
from tests.vendors.kit import batch, events

def mine(*_): ...

signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGINT, mine)
settings = WarehouseSettings.model_validate({"engine": "duckdb", "credentials": "events.duckdb"})
made = WarehouseDestination("shop", settings, Path(sys.argv[1]))
assert not {"dlt", "pyarrow", "duckdb"} & set(sys.modules), "imported before it is used"
seen = set()
threading.settrace(lambda *_: seen.add((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))))
made.deliver(batch(events(20)))
assert seen == {(mine, mine)}, seen
made.close()
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert signal.getsignal(signal.SIGTERM) is mine
"""


def test_it_is_imported_when_used_and_leaves_signals_threads_and_output_alone(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=root, check=False, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_file_that_another_process_has_open_is_a_passing_fault(opened: Opened, tmp_path: Path) -> None:
    holding = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holding, str(tmp_path / FILE)], text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "open\n"
        destination = opened()
        for call in (destination.probe, destination.position, lambda: destination.deliver(batch(events(1)))):
            with pytest.raises(DestinationUnavailable, match="lock") as caught:
                call()
            assert type(caught.value) is DestinationUnavailable
        other.stdin.close()
        other.wait(60)
    destination.deliver(batch(events(1)))
    assert destination.position() == events(1)[0].position


def test_few_events_wait_for_the_next_load_and_many_do_not(opened: Opened) -> None:
    destination = opened(every="1s")
    began = time.monotonic()
    destination.deliver(batch(events(1)))
    destination.deliver(batch(events(1, start=1)))
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize(
    ("engine", "credentials"),
    [
        ("snowflake", "snowflake://loader:s3same@account/shop?warehouse=w&role=r"),
        ("redshift", "redshift://loader:s3same@127.0.0.1:1/shop"),
        ("clickhouse", "clickhouse://loader:s3same@127.0.0.1:1/shop"),
        ("databricks", '{"server_hostname": "h", "http_path": "/p", "access_token": "s3same", "catalog": "c"}'),
        ("bigquery", '{"type": "service_account", "project_id": "p", "private_key": "s3same", "client_email": "e"}'),
    ],
)
def test_a_warehouse_that_cannot_be_reached_says_so_without_its_secret(engine: str, credentials: str, opened: Opened) -> None:
    destination = opened(engine=engine, credentials=credentials)
    with pytest.raises((DestinationUnavailable, ConfigError)) as caught:
        destination.deliver(batch(events(1)))
    assert isinstance(caught.value, CdcTrackerError)
    assert "s3same" not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None


def test_settings_that_do_not_hold_are_refused_without_showing_the_credentials(tmp_path: Path) -> None:
    for settings in ({"engine": "oracle"}, {"dataset": 'a"b'}, {"in_flight": 2}, {"credentials": " "}, {"every": "-1s"}):
        given = {"engine": "snowflake", "credentials": "snowflake://u:s3same@a/b"} | settings
        with pytest.raises(ValidationError) as caught:
            WarehouseSettings.model_validate(given)
        assert "s3same" not in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        WarehouseDestination("s", WarehouseSettings(engine="duckdb", credentials="none/x.duckdb"), tmp_path)  # type: ignore[arg-type]


def test_a_batch_without_events_moves_the_position_only(opened: Opened) -> None:
    destination = opened()
    destination.deliver(Batch([], Position(5, 0)))
    destination.close()
    assert opened().position() == Position(5, 0)
