"""A process that delivers to an exactly-once destination and is killed at any moment; and what is there then."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, cast

import pytest

from cdc_tracker.delivery.sender import send
from cdc_tracker.destinations.base import Destination, HoldsCheckpoint
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.model import Position
from tests.vendors.kit import Kit, batch, event

PATIENCE = 120.0  # seconds within which a process says something, or ends once it is killed

# Forked from a clean process: one forked from pytest would inherit the locks of its threads and C libraries in whatever state.
_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload(["httpx", "sqlalchemy", "tests.contract.kits", __name__])


class Deliverer:
    """A process that delivers for ever, and says how far it is."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        """Runs `work(*arguments, connection)`. All of it is pickled."""
        self._told, theirs = _CLEAN.Pipe(duplex=False)
        self._process = _CLEAN.Process(target=work, args=(*arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is heard, however it ends

    def hear(self) -> Any:
        """What it says next. The test fails where it says nothing, or has ended."""
        if not self._told.poll(PATIENCE):
            self.kill()
            pytest.fail(f"the delivering process said nothing for {PATIENCE:.0f} s")
        try:
            return self._told.recv()
        except EOFError:
            self._process.join(PATIENCE)
            pytest.fail(f"the delivering process has ended by itself, with the code {self._process.exitcode}")

    def kill(self) -> list[Any]:
        """By SIGKILL. What it had said and nobody has heard."""
        self._process.kill()
        self._process.join(PATIENCE)
        assert self._process.exitcode == -signal.SIGKILL
        self._process.close()
        unheard = []
        with self._told:
            try:
                while self._told.poll():
                    unheard.append(self._told.recv())
            except EOFError:
                return unheard
        return unheard


class Holder(Destination, HoldsCheckpoint):
    """Both protocols, for the type checker."""


@dataclass(frozen=True)
class Standing:
    """What a destination holds when nobody writes to it."""

    position: Position | None
    held: list[int]  # numbers of the events, in the destination's order
    merges: bool

    @property
    def expected(self) -> int:
        """So many events, from 0 on, should be there. One that merges may have more: they come again, and change nothing."""
        known = 0 if self.position is None else _number(self.position) + 1
        return max(known, len(self.held)) if self.merges else known

    @property
    def lost(self) -> int:
        return len(set(range(self.expected)) - set(self.held))

    @property
    def doubled(self) -> int:
        """Those that its position does not know of as well: they will come again."""
        return len(self.held) - len(set(self.held)) + len(set(self.held) - set(range(self.expected)))

    @property
    def right(self) -> bool:
        return self.held == list(range(self.expected))


def opened(kit: Kit) -> Holder:
    return cast("Holder", kit.open())


def order(kit: Kit) -> list[int]:
    return [call["properties"]["order_id"] for call in kit.held()]


def killed(kit: Kit, number: int) -> Position | None:
    """Deliver, and be killed in the batch after the next `number % 5`; the position at which it began."""
    child = Deliverer(_deliver_for_ever, kit.open)
    position: Position | None = child.hear()
    began, batches = time.monotonic(), number % 5
    for _ in range(batches):
        child.hear()
    time.sleep(random.uniform(0, (time.monotonic() - began) / max(batches, 1)))  # into the next one
    child.kill()
    return position


def standing(kit: Kit) -> Standing:
    """A server may still be about to commit what the killed process sent: looks until nothing changes."""
    with closing(opened(kit)) as destination:
        position = destination.position()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            held = order(kit)
            position, before = destination.position(), position
            if position == before:
                return Standing(position, held, kit.merges)
    pytest.fail(f"the destination's position still moves after {PATIENCE:.0f} s without a writer")


def _deliver_for_ever(open_destination: Callable[[], Holder], done: Connection) -> None:
    """Says on `done` where it began, and then after every batch."""
    destination = open_destination()
    position = destination.position()
    done.send(position)
    n = 0 if position is None else _number(position) + 1
    while True:
        made = [event(k, name=f"Event {k % 3}", **{f"p{k % 12}": k}) for k in range(n, n + random.randint(1, 40))]
        send(destination, batch(made), stop=lambda: False, on_trouble=_quiet)
        n += len(made)
        done.send(None)


def _quiet(error: CdcTrackerError) -> None:
    """It is sent again."""


def _number(position: Position) -> int:
    """Which event stands at a position: the inverse of vendors.kit.raw_event."""
    return (position.commit_lsn - 1_000) // 10 + position.ordinal
