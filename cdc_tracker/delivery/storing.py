"""Waiting for a state store that is unavailable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cdc_tracker.errors import StateUnavailable

T = TypeVar("T")
PAUSE = 0.5  # seconds between two tries


def until_stored(
    store: Callable[[], T],
    *,
    abandon: Callable[[], bool],
    on_trouble: Callable[[StateUnavailable], None],
    on_recovery: Callable[[], None] = lambda: None,
) -> T | None:
    """Calls `store` until the state store takes it, and returns its result; None if `abandon()` is true after a failure."""
    failed = False
    while True:
        try:
            stored = store()
        except StateUnavailable as error:
            failed = True
            on_trouble(error)
        else:
            if failed:
                on_recovery()
            return stored
        if abandon():
            return None
        time.sleep(PAUSE)
