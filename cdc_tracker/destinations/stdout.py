"""Events as lines of JSON on standard output."""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal

from cdc_tracker.destinations.base import DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.support.formats import as_lines
from cdc_tracker.errors import DestinationUnavailable, Stop
from cdc_tracker.model import DELIVERED, Batch, Receipt


class StdoutSettings(DestinationSettings):
    type: Literal["stdout"] = "stdout"


class StdoutDestination:
    """One line per event. DELIVERED means written and flushed; what the reader does with it is unknown."""

    Settings: ClassVar[type[DestinationSettings]] = StdoutSettings
    guarantee: ClassVar[Guarantee] = "at least once"
    duplicate_handling: ClassVar[str] = "prints it again"
    dedupe_window: ClassVar[float] = 0.0
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: DestinationSettings, base: Path, stream: BinaryIO | None = None) -> None:
        """`stream`: written to instead of standard output; it is not closed."""
        self.limits = Limits(events=1_000, batch_bytes=1024**2, event_bytes=1 << 40, in_flight=settings.in_flight)
        self._stream = stream
        self._lock = threading.Lock()

    def deliver(self, batch: Batch) -> list[Receipt]:
        """Raises Stop if the reader has closed the pipe: it cannot be reopened."""
        stream = self._stream or sys.stdout.buffer
        try:
            with self._lock:
                stream.write(as_lines(batch.events))
                stream.flush()
        except BrokenPipeError:
            raise Stop("the reader of standard output has closed the pipe") from None
        except OSError as error:
            raise DestinationUnavailable(f"cannot write to standard output: {error.strerror or error}") from error
        return [DELIVERED] * len(batch.events)

    def probe(self) -> None:
        if (self._stream or sys.stdout.buffer).closed:
            raise DestinationUnavailable("standard output is closed")

    def close(self) -> None:
        """Leaves the stream open: it belongs to the caller."""
