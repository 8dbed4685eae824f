"""What is special to files: names, rotation, crashes at every step, damage, a full disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc_tracker.destinations.jsonl import JsonlDestination, JsonlSettings
from cdc_tracker.errors import AlreadyRunning, DestinationBlocked, DestinationUnavailable, Stop
from cdc_tracker.model import Batch, Event, Position


def batch(first: int, count: int = 1, size: int = 20) -> Batch:
    events = [
        Event(f"id-{n}", "track", b'{"n":%d,"x":"%b"}' % (n, b"y" * size), "m", Position(100, n), 0)
        for n in range(first, first + count)
    ]
    return Batch(events, events[-1].position)


Opened = Callable[..., JsonlDestination]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    made: list[JsonlDestination] = []

    def open_it(path: str = "out", **settings: object) -> JsonlDestination:
        made.append(JsonlDestination("shop", JsonlSettings.model_validate({"path": path, **settings}), tmp_path))
        return made[-1]

    yield open_it
    for one in made:
        one.close()


def lines(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl")))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_holds_files_named_after_the_destination(opened: Opened, tmp_path: Path) -> None:
    opened("out/deep").deliver(batch(0))
    assert names(tmp_path / "out/deep") == ["shop-000001.jsonl", "shop.checkpoint"]


def test_a_path_that_ends_in_jsonl_is_a_prefix(opened: Opened, tmp_path: Path) -> None:
    opened("out/orders.jsonl").deliver(batch(0))
    assert names(tmp_path / "out") == ["orders-000001.jsonl", "orders.checkpoint"]


def test_a_new_file_begins_where_the_next_batch_would_pass_the_size(opened: Opened, tmp_path: Path) -> None:
    destination = opened(rotate_size=110)
    for n in range(7):
        destination.deliver(batch(n))
    assert [path.read_bytes().count(b"\n") for path in sorted((tmp_path / "out").glob("*.jsonl"))] == [3, 3, 1]
    destination.deliver(batch(7, count=50))
    assert lines(tmp_path / "out") == b"".join(b'{"n":%d,"x":"%b"}\n' % (n, b"y" * 20) for n in range(57))
    assert destination.position() == Position(100, 56)


def test_what_lies_beyond_the_checkpoint_is_cut_off(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch(0, count=2))
    destination.close()
    data = tmp_path / "out/shop-000001.jsonl"
    kept = data.read_bytes()
    data.write_bytes(kept + b'{"n":2,"x":"half a li')
    again = opened()
    assert again.position() == Position(100, 1)
    assert data.read_bytes() == kept


def test_a_file_begun_and_never_counted_is_removed(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch(0))
    destination.close()
    (tmp_path / "out/shop-000002.jsonl").write_bytes(b'{"n":1}\n')
    assert opened().position() == Position(100, 0)
    assert names(tmp_path / "out") == ["shop-000001.jsonl", "shop.checkpoint"]


@pytest.mark.parametrize("slot", [0, 1])
def test_one_torn_slot_leaves_the_other_and_nothing_is_lost_or_doubled(slot: int, opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    for n in range(3):
        destination.deliver(batch(n))
    destination.close()
    checkpoint = tmp_path / "out/shop.checkpoint"
    content = bytearray(checkpoint.read_bytes())
    content[slot * 4096 + 10 : slot * 4096 + 30] = b"\xff" * 20
    checkpoint.write_bytes(content)
    again = opened()
    position = again.position()
    assert position in (Position(100, 1), Position(100, 2))
    again.deliver(batch(position.ordinal + 1, count=5 - position.ordinal))
    assert lines(tmp_path / "out") == b"".join(b'{"n":%d,"x":"%b"}\n' % (n, b"y" * 20) for n in range(6))


def test_killed_while_the_checkpoint_file_was_made_it_starts_anew(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/shop.checkpoint").write_bytes(b"\0" * 8192)
    assert opened().position() is None


def test_a_missing_or_damaged_checkpoint_beside_data_stops(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch(0))
    destination.close()
    checkpoint = tmp_path / "out/shop.checkpoint"
    checkpoint.write_bytes(b"\0" * 8192)
    with pytest.raises(Stop, match="missing or damaged"):
        opened().position()
    checkpoint.unlink()
    with pytest.raises(Stop, match="missing or damaged"):
        opened().deliver(batch(1))
    assert lines(tmp_path / "out").count(b"\n") == 1


def test_a_file_shorter_than_was_counted_stops(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch(0, count=3))
    destination.close()
    os.truncate(tmp_path / "out/shop-000001.jsonl", 10)
    with pytest.raises(Stop, match="has 10 bytes"):
        opened().position()


def test_files_newer_than_the_checkpoint_stop_and_are_not_removed(opened: Opened, tmp_path: Path) -> None:
    destination = opened()
    destination.deliver(batch(0))
    destination.close()
    (tmp_path / "out/shop-000003.jsonl").write_bytes(b"{}\n")
    with pytest.raises(Stop, match="lies beyond"):
        opened().position()
    assert (tmp_path / "out/shop-000003.jsonl").read_bytes() == b"{}\n"


def test_a_second_writer_is_refused_and_a_probe_beside_the_first_is_not(opened: Opened) -> None:
    first, second = opened(), opened()
    first.deliver(batch(0))
    second.probe()
    with pytest.raises(AlreadyRunning, match=r"another process is writing to .*shop-\*\.jsonl"):
        second.position()
    first.close()
    assert second.position() == Position(100, 0)


def test_line_breaks_in_json_that_a_column_kept_do_not_break_lines(opened: Opened, tmp_path: Path) -> None:
    body = b'{"properties":{\n  "a": 1.10\n},\n"b":"x\\ny"}'
    opened().deliver(Batch([Event("a", "track", body, "m", Position(1, 0), 0)], Position(1, 0)))
    assert lines(tmp_path / "out") == b'{"properties":{   "a": 1.10 }, "b":"x\\ny"}\n'


def test_a_folder_that_cannot_be_written_is_blocked_with_a_hint(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    for call in (opened("out/sub").probe, opened("out/sub").position):
        with pytest.raises((DestinationBlocked, DestinationUnavailable), match="cannot write to"):
            call()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_changes_nothing_and_it_goes_on_when_there_is_space(small_disk: Path, opened: Opened) -> None:
    destination = opened("small/out", rotate_size="40KB")
    done = 0
    with pytest.raises(DestinationUnavailable, match="No space left") as caught:
        for n in range(1_000):
            destination.deliver(batch(10 * n, count=10, size=2_000))
            done = n
    assert "free some space" in caught.value.hint
    expected = b"".join(b'{"n":%d,"x":"%b"}\n' % (n, b"y" * 2_000) for n in range(10 * (done + 1)))
    assert lines(small_disk / "out") == expected
    with pytest.raises(DestinationUnavailable, match="No space left"):
        destination.deliver(batch(10 * (done + 1), count=10, size=2_000))
    shipped = (small_disk / "out/shop-000001.jsonl").read_bytes()
    (small_disk / "out/shop-000001.jsonl").unlink()
    destination.deliver(batch(10 * (done + 1), count=10, size=2_000))
    assert destination.position() == Position(100, 10 * (done + 2) - 1)
    whole = b"".join(b'{"n":%d,"x":"%b"}\n' % (n, b"y" * 2_000) for n in range(10 * (done + 2)))
    assert shipped + lines(small_disk / "out") == whole


def test_without_fsync_it_still_survives_being_killed(opened: Opened, tmp_path: Path) -> None:
    destination = opened(fsync=False)
    destination.deliver(batch(0, count=3))
    destination.close()
    assert opened(fsync=False).position() == Position(100, 2)


def test_a_dead_letter_sent_again_after_a_crash_stands_there_once(opened: Opened, tmp_path: Path) -> None:
    first = opened()
    first.deliver(batch(0, 3))
    letter = Event("letter", "track", b'{"letter":1}', "m", Position(50, 0), 0)
    first.deliver(Batch([letter], Position(100, 2), out_of_band="dead letter 1"))
    first.close()
    again = opened()
    again.deliver(batch(3))  # what came meanwhile moves the position, and does not make it forget
    again.deliver(Batch([letter], Position(100, 3), out_of_band="dead letter 1"))
    assert lines(tmp_path / "out").count(b"letter") == 1
    again.deliver(
        Batch([Event("letter", "track", b'{"letter":2}', "m", Position(50, 0), 0)], Position(100, 3), out_of_band="dead letter 2")
    )
    assert lines(tmp_path / "out").count(b"letter") == 2
