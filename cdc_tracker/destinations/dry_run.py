"""The stand-in for a destination with `dry_run`: events go all the way, but nothing is sent."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from cdc_tracker.destinations.base import Destination, DestinationSettings, Guarantee, Limits
from cdc_tracker.model import SUPPRESSED, Batch, Receipt


def dry(kind: type[Destination]) -> type[Destination]:
    """A class with the promises of `kind` that opens and sends nothing, and holds no checkpoint."""

    class DryRun:
        Settings: ClassVar[type[DestinationSettings]] = kind.Settings
        guarantee: ClassVar[Guarantee] = kind.guarantee
        duplicate_handling: ClassVar[str] = kind.duplicate_handling
        dedupe_window: ClassVar[float] = kind.dedupe_window
        age_limit: ClassVar[float] = kind.age_limit
        limits = Limits(events=10_000, batch_bytes=1024**2, event_bytes=1024**2)  # for counting only

        def __init__(self, name: str, settings: Any, base: Path) -> None:
            self._made = (name, settings, base)

        def deliver(self, batch: Batch) -> list[Receipt]:
            return [SUPPRESSED] * len(batch.events)

        def probe(self) -> None:
            """Probes the real destination."""
            with closing(kind(*self._made)) as real:
                real.probe()

        def close(self) -> None:
            pass

    return DryRun
