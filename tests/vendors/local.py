"""The destinations that need nobody else: memory, stdout, jsonl."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdc_tracker.destinations.base import Destination
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.destinations.stdout import StdoutDestination, StdoutSettings
from tests.vendors.kit import Kit, Place, decoded, made


@contextmanager
def _memory(place: Place) -> Iterator[Kit]:
    opened: list[MemoryDestination] = []

    def open_memory() -> Destination:
        opened.append(MemoryDestination())
        return opened[-1]

    yield Kit(open_memory, lambda: [decoded(e.body) for one in opened for e in one.events], keeps_repeats=True)


@contextmanager
def _stdout(place: Place) -> Iterator[Kit]:
    stream = io.BytesIO()
    settings = StdoutSettings()
    yield Kit(
        lambda: StdoutDestination("shop", settings, Path(), stream),
        lambda: [decoded(line) for line in stream.getvalue().splitlines()],
        keeps_repeats=True,
    )


def folder_kept(folder: Path) -> Callable[[], None]:
    """A copy of it; the function puts that in its place."""
    backup = folder.with_name("backup")
    shutil.copytree(folder, backup)

    def bring_back() -> None:
        shutil.rmtree(folder)
        backup.rename(folder)

    return bring_back


@contextmanager
def _jsonl(place: Place) -> Iterator[Kit]:
    def held() -> list[dict[str, Any]]:
        files = sorted((place.folder / "out").glob("*.jsonl"))
        return [decoded(line) for path in files for line in path.read_bytes().splitlines()]

    opened = made("jsonl", place.folder, path="out", rotate_size="20KB")
    out = place.folder / "out"
    yield Kit(
        opened, held, keeps_repeats=True, exactly_once=True, keep=lambda: folder_kept(out), remove=lambda: shutil.rmtree(out)
    )


KITS = {"memory": _memory, "stdout": _stdout, "jsonl": _jsonl}
HOLDERS = ["jsonl"]
