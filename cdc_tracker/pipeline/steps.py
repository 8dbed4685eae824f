"""The steps of a pipeline: functions that pass, alter, reject or suppress one event. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import TypeAlias

from cdc_tracker.model import Change, Event, Result

Build: TypeAlias = Callable[[Change], Result | None]
"""Makes at most one event of a change. None: the change does not match."""

Step: TypeAlias = Callable[[Event, Change], Result]
"""Takes an event and the change that it was made of; returns the event, an altered one, a Rejection or a Suppression."""


def through(build: Build, steps: Iterable[Step]) -> Build:
    """Returns a function that sends the event that `build` makes through the steps, in order.

    The first step that returns no event is the last one called. Without steps, `build` itself is returned.
    """
    return reduce(_then, steps, build)


def _then(build: Build, step: Step) -> Build:
    def run(change: Change) -> Result | None:
        result = build(change)
        return step(result, change) if isinstance(result, Event) else result

    return run
