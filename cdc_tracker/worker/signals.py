"""What a worker's processes are asked by signals: to stop, to stop at once, to reload. From their first moment on.

A signal that comes before a process can act on it must not end it, nor be lost: `hold` lets it wait, and Signals takes it up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

ASKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def hold_for(arguments: Sequence[str]) -> None:
    """`hold` where a command line runs a worker. To be called first: to load the program takes most of a second."""
    if "run" in arguments:
        hold()


def hold() -> None:
    """Let them wait, also in processes that are forked from this one, until it has its Signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)


class Signals:
    """SIGTERM and SIGINT ask to stop, a second one to do so at once; SIGHUP asks to reload."""

    def __init__(self, drain: float) -> None:
        """`drain`: seconds that what is in flight has after the first."""
        self._drain = drain
        self._stopped_at: float | None = None
        self._reload = False
        self._parent = os.getppid()
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)

    def _on_stop(self, *_: object) -> None:
        self._stopped_at = time.monotonic() if self._stopped_at is None else 0.0

    def _on_reload(self, *_: object) -> None:
        self._reload = True

    def stop(self) -> bool:
        return self._stopped_at is not None

    def abandon(self) -> bool:
        """What is in flight has had its time."""
        return self._stopped_at is not None and time.monotonic() > self._stopped_at + self._drain

    def orphaned(self) -> bool:
        return os.getppid() != self._parent

    def take_reload(self) -> bool:
        asked, self._reload = self._reload, False
        return asked
