"""Signals to a worker's processes: stop, stop at once, reload. From their first moment on.

A signal that arrives before a process can act on it must neither end the process nor be lost: `hold` blocks it until then.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

ASKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def hold_for(arguments: Sequence[str]) -> None:
    """Calls `hold` if the command line runs a worker. Call it first: loading the program takes most of a second."""
    if "run" in arguments:
        hold()


def hold() -> None:
    """Blocks the signals, in this process and in those forked from it, until each has its Signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)


class Signals:
    """SIGTERM and SIGINT ask to stop, a second one to stop at once; SIGHUP asks to reload."""

    def __init__(self, drain: float) -> None:
        """Unblocks the signals. `drain`: seconds after the first SIGTERM in which work in flight may be finished."""
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
        """Whether to stop."""
        return self._stopped_at is not None

    def abandon(self) -> bool:
        """Whether to give up work in flight: the drain time is over, or a second signal came."""
        return self._stopped_at is not None and time.monotonic() > self._stopped_at + self._drain

    def orphaned(self) -> bool:
        """Whether the process that started this one is gone."""
        return os.getppid() != self._parent

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last call."""
        asked, self._reload = self._reload, False
        return asked
