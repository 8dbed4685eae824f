"""A plugin that was written against the first published API: `repeats`, `Unexplained`, `Wants`, `wants`, `aside`.

It is installed as other packages are, by an entry point, and passes the conformance suite.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits, Wants
from cdc_tracker.errors import Unexplained
from cdc_tracker.model import DELIVERED, Batch, Receipt
from tests.vendors.kit import Kit, Place, decoded, made


class EarlierSettings(DestinationSettings):
    type: Literal["earlier"] = "earlier"
    path: str

    @property
    def wants(self) -> Wants:
        return Wants(row_key=True)


class EarlierDestination:
    """Appends lines to a file. `asides` are the names of the batches that were not part of the stream."""

    Settings: ClassVar[type[DestinationSettings]] = EarlierSettings
    guarantee: ClassVar[Guarantee] = "at least once"
    repeats: ClassVar[str] = "keeps it again"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: EarlierSettings, base: Path) -> None:
        self.limits = Limits(500, batch_bytes=8 * 1024**2, event_bytes=8 * 1024**2)
        self._file = base / settings.path
        self.asides: list[str] = []

    def deliver(self, batch: Batch) -> list[Receipt]:
        if any(event.mapping == "unwanted" for event in batch.events):
            raise Unexplained("the server answered 400")
        whole = Batch(batch.events, batch.upto, aside=batch.aside, history=batch.history)
        self.asides.append(whole.aside)
        with self._file.open("ab") as file:
            file.writelines(event.body.replace(b"\n", b" ") + b"\n" for event in whole.events)
        return [DELIVERED] * len(whole.events)

    def probe(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """The plugin's metadata in a folder of the import path."""
    info = folder / "earlier-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: earlier\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cdc_tracker.destinations]\nearlier = {__name__}:EarlierDestination\n")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    file = place.folder / "events.jsonl"
    with installed(place.folder / "site"):
        opened = made("earlier", place.folder, path=file.name)
        yield Kit(opened, lambda: [decoded(line) for line in file.read_bytes().split(b"\n") if line], keeps_repeats=True)


KITS = {"earlier-plugin": _kit}
