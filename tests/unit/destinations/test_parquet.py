"""What is special to Parquet files: partitions, growth, crashes at every step, the order of what is made durable, a full disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cdc_tracker.destinations.parquet import ParquetDestination, ParquetSettings
from cdc_tracker.destinations.parquet.stores import Folder
from cdc_tracker.errors import AlreadyRunning, DestinationBlocked, DestinationUnavailable, Stop
from cdc_tracker.model import Batch, Event, Position
from tests.vendors.kit import Engines, batch, event, events, raw_event
from tests.vendors.s3 import ACCESS_KEY, S3, SECRET_KEY

Opened = Callable[..., ParquetDestination]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made: list[ParquetDestination] = []

    def open_it(path: str = "lake", **settings: object) -> ParquetDestination:
        given = {"path": path, **settings}
        made.append(ParquetDestination("shop", ParquetSettings.model_validate(given), tmp_path))
        return made[-1]

    yield open_it
    for one in made:
        one.close()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.parquet"))


def numbers(root: Path) -> list[int]:
    """The events that a reader of the glob finds."""
    found = [pq.read_table(root / name)["message_id"].to_pylist() for name in files(root)]
    return sorted(int(one.rpartition("-")[2]) for ids in found for one in ids)


def test_files_lie_by_date_and_event_and_their_names_have_the_position(opened: Opened, tmp_path: Path) -> None:
    made = [event(0), event(1, name="Größe geändert"), event(2), event(90_000), event(90_001, name="!?")]
    made[3:] = [raw_event(n, one.body.decode().replace("2026-01-02", "2026-01-03")) for n, one in ((3, made[3]), (4, made[4]))]
    opened().deliver(batch(made))
    assert files(tmp_path / "lake") == [
        "2026-01-02/größe_geändert/shop-00000000000003E8-0-2.parquet",
        "2026-01-02/order_paid/shop-00000000000003E8-0-2.parquet",
        "2026-01-03/8faf838e/shop-00000000000003E8-0-2.parquet",
        "2026-01-03/order_paid/shop-00000000000003E8-0-2.parquet",
    ]


def test_the_columns_have_types_and_json_keeps_its_numbers(opened: Opened, tmp_path: Path) -> None:
    body = (
        '{"type":"track","event":"E","messageId":"0-1","properties":{"n":123456789012345678901234567890.10,"d":%s},'
        '"timestamp":"2026-01-02T05:04:05.5+02:00"}' % ("[" * 300 + "]" * 300)
    )
    opened(partition="day={date}/h={hour}/{type}").deliver(batch([raw_event(1, body)]))
    [name] = files(tmp_path / "lake")
    assert name.startswith("day=2026-01-02/h=03/track/")
    table = pq.read_table(tmp_path / "lake" / name, partitioning=None)
    assert table.schema.field("timestamp").type == table.schema.field("committed_at").type == pa.timestamp("us", "UTC")
    assert not table.schema.field("message_id").nullable
    [row] = table.to_pylist()
    assert row["properties"] == body[body.index('{"n"') : body.index(',"timestamp"')]
    assert f"{row['timestamp']:%FT%T.%f}" == "2026-01-02T03:04:05.500000"
    assert row["traits"] is None


def test_times_at_the_ends_of_the_calendar_have_folders(opened: Opened, tmp_path: Path) -> None:
    body = '{"type":"track","event":"Order Paid","messageId":"m-%d","userId":"3","properties":{},"timestamp":"%s"}'
    times = ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"]
    opened().deliver(batch([raw_event(n, body % (n, time)) for n, time in enumerate(times)]))
    assert sorted(path.split("/")[0] for path in files(tmp_path / "lake")) == ["0001-01-01", "9999-12-31"]


def test_a_small_file_grows_until_it_is_large_enough(opened: Opened, tmp_path: Path) -> None:
    destination = opened(grow="8KB")
    for n in range(60):
        destination.deliver(batch([event(n, note=os.urandom(200).hex())]))
    assert 2 <= len(files(tmp_path / "lake")) <= 8
    assert numbers(tmp_path / "lake") == list(range(60))
    never = opened("other", grow=0)
    for n in range(5):
        never.deliver(batch([event(n)]))
    assert len(files(tmp_path / "other")) == 5


def test_a_file_that_someone_replaced_or_took_away_is_not_written_over(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch([event(0)]))
    [first] = files(tmp_path / "lake")
    (tmp_path / "lake" / first).write_bytes(b"something else")
    destination.deliver(batch([event(1)]))
    assert (tmp_path / "lake" / first).read_bytes() == b"something else"
    (tmp_path / "lake" / first).unlink()
    assert numbers(tmp_path / "lake") == [1]


@pytest.mark.parametrize("step", ["stage", "commit", "after commit", "publish", "remove"])
def test_stopped_at_any_step_a_batch_counts_once(
    step: str, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = opened()
    destination.deliver(batch(events(3)))
    failing = step.removeprefix("after ")
    real = getattr(Folder, failing)
    with monkeypatch.context() as patch:

        def fail(self: Folder, *arguments: Any) -> Any:
            if step.startswith("after"):
                real(self, *arguments)
            raise DestinationUnavailable("the disk is away")

        patch.setattr(Folder, failing, fail)
        with pytest.raises(DestinationUnavailable, match="away"):
            destination.deliver(batch(events(3, start=3)))
    visible = numbers(tmp_path / "lake")
    assert visible in ([0, 1, 2], [0, 1, 2, 3, 4, 5])
    destination.close()
    again = opened()  # as after a kill: what counts is decided by the position
    position = again.position()
    expected = 6 if position == events(6)[-1].position else 3
    assert expected == (6 if step in ("after commit", "publish", "remove") else 3)
    assert numbers(tmp_path / "lake") == list(range(expected))
    assert not list((tmp_path / "lake").rglob("*.staged"))


@pytest.mark.parametrize("step", ["stage", "commit", "publish", "remove"])
def test_the_same_batch_tried_again_after_a_failure_counts_once(
    step: str, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = opened()
    destination.deliver(batch(events(3)))

    def fail(*_: object) -> None:
        raise DestinationUnavailable("the disk is away")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Folder, step, fail)
            with pytest.raises(DestinationUnavailable):
                destination.deliver(batch(events(3, start=3)))
    destination.deliver(batch(events(3, start=3)))
    assert numbers(tmp_path / "lake") == list(range(6))
    destination.deliver(batch(events(3, start=3)))  # this one is a repeat, and it appends those
    assert len(numbers(tmp_path / "lake")) == 9


def test_what_counts_is_durable_before_it_is_said_to_count(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power failure must not turn round."""
    destination = opened()
    destination.position()
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(fd: int) -> None:
        done.append(f"sync {_kind(Path(f'/proc/self/fd/{fd}').readlink())}")
        fsync(fd)

    def noted_rename(self: Path, target: Path) -> Path:
        done.append(f"to {_kind(target)}")
        return rename(self, target)

    def _kind(path: Path) -> str:
        if path.is_dir():
            return "log" if "_cdc_tracker" in path.parts and path.name == "shop" else "data"
        return {".staged": "staged", ".new": "record", ".json": "record", ".parquet": "file"}[path.suffix]

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    destination.deliver(batch(events(2)))
    kept = [each for n, each in enumerate(done) if done[n - 1 : n] != [each]]
    assert kept == ["sync staged", "sync record", "sync log", "to record", "sync log", "sync data", "to file", "sync data"]


def test_a_second_writer_is_refused_and_a_probe_beside_the_first_is_not(opened: Opened) -> None:
    first, second = opened(), opened()
    first.deliver(batch(events(1)))
    second.probe()
    with pytest.raises(AlreadyRunning, match="another process"):
        second.position()
    first.close()
    assert second.position() == events(1)[0].position


def test_a_damaged_record_stops_it(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch(events(1)))
    destination.close()
    newest = max((tmp_path / "lake/_cdc_tracker/shop").glob("*.json"))
    newest.write_bytes(newest.read_bytes()[:20])
    with pytest.raises(Stop, match="damaged"):
        opened().position()


def test_the_log_does_not_grow_without_end(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    for n in range(130):
        destination.deliver(Batch([], Position(n, 0)))
    assert len(list((tmp_path / "lake/_cdc_tracker/shop").iterdir())) <= 102
    assert destination.position() == Position(129, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_changes_nothing_and_it_goes_on_when_there_is_space(small_disk: Path, opened: Opened) -> None:
    destination = opened("small/lake", grow="20KB")

    def made(n: int) -> list[Event]:
        return [event(k, note=os.urandom(1_000).hex()) for k in range(10 * n, 10 * n + 10)]

    done = 0
    with pytest.raises(DestinationUnavailable, match="No space left") as caught:
        for n in range(1_000):
            destination.deliver(batch(made(n)))
            done = n + 1
    assert "free some space" in caught.value.hint
    assert numbers(small_disk / "lake") == list(range(10 * done))
    for name in files(small_disk / "lake")[: len(files(small_disk / "lake")) // 2]:
        (small_disk / "lake" / name).unlink()
    left = numbers(small_disk / "lake")
    destination.deliver(batch(made(done)))
    assert numbers(small_disk / "lake") == [*left, *range(10 * done, 10 * done + 10)]


@pytest.mark.parametrize(
    "settings",
    [
        {"partition": "{foo}"},
        {"partition": "../{date}"},
        {"partition": "_x/{date}"},
        {"partition": "{date}//{event}"},
        {"partition": "{event.__class__}"},
        {"path": "ftp://x/y"},
        {"path": "s3://"},
        {"in_flight": 2},
    ],
)
def test_settings_that_do_not_hold_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ParquetSettings.model_validate({"path": "lake"} | settings)


# Buckets


def _bucket_settings(server: S3, bucket: str) -> dict[str, Any]:
    keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    return {"path": f"s3://{bucket}/lake", "endpoint": server.url, "region": "us-east-1", **keys}


def test_a_worker_that_was_replaced_cannot_write_to_the_bucket_any_more(opened: Opened, engines: Engines) -> None:
    server: S3 = engines.get("s3")
    with server.fresh_bucket() as bucket:
        settings = _bucket_settings(server, bucket)
        first, second = opened(**settings), opened(**settings)
        first.deliver(batch(events(2)))
        second.deliver(batch(events(2, start=2)))
        with pytest.raises(AlreadyRunning, match="another process"):
            first.deliver(batch(events(2, start=2)))
        assert second.position() == events(4)[-1].position
        [name] = server.objects(bucket, ".parquet")
        assert name.startswith("lake/2026-01-02/order_paid/shop-")


def test_a_bucket_that_is_not_there_blocks_and_one_that_is_away_is_passing(opened: Opened, engines: Engines) -> None:
    server: S3 = engines.get("s3")
    with pytest.raises(DestinationBlocked, match="bucket"):
        opened(**_bucket_settings(server, "none-there")).deliver(batch(events(1)))
    away = _bucket_settings(S3("http://127.0.0.1:1"), "none-there")
    with pytest.raises(DestinationUnavailable) as caught:
        opened(**away).probe()
    assert SECRET_KEY not in str(caught.value)
