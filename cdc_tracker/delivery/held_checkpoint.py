"""The checkpoint that a destination holds: read, stored and rewound, however long the destination is unavailable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from cdc_tracker.delivery.faults import Fault, held_position, sound
from cdc_tracker.delivery.report import DeliveryReporter
from cdc_tracker.delivery.sender import Interrupted
from cdc_tracker.destinations.base import HoldsCheckpoint
from cdc_tracker.errors import CdcTrackerError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import Batch, Position
from cdc_tracker.times import wait

T = TypeVar("T")

log = structlog.get_logger("deliver")


@dataclass
class HeldCheckpoint:
    """Every method is called until the destination answers. Raises Interrupted when `stop()` is true.

    `send` delivers a batch. `waiting` is called once a second between two calls.
    """

    destination: HoldsCheckpoint
    name: str
    report: DeliveryReporter
    send: Callable[[Batch], object]
    stop: Callable[[], bool]
    on_trouble: Callable[[CdcTrackerError], None]
    waiting: Callable[[], None]

    def position(self) -> Position | None:
        """The position that the destination holds; None: it holds none."""
        return self._until_answered(partial(held_position, self.destination))

    def store(self, position: Position) -> None:
        """Lets the destination store a position without events."""
        self._until_answered(partial(self.send, Batch((), position)))

    def rewind(self, to: Position) -> None:
        self._until_answered(partial(self.destination.rewind, to))

    def _until_answered(self, call: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception_type(DestinationUnavailable), wait=wait_random_exponential(max=30.0), sleep=self._sleep
        )
        answer: T = retrying(self._attempt, call)
        return answer

    def _attempt(self, call: Callable[[], T]) -> T:
        try:
            with sound():
                answer = call()
        except DestinationUnavailable as error:
            self.on_trouble(error)
            self.waiting()
            raise
        except CdcTrackerError:
            raise
        except Exception as error:
            fault = Fault(error)
            log.error("the destination fails", destination=self.name, error=fault.place, traceback=fault.trace)
            trouble = DestinationBlocked(f"the destination cannot report its position: {fault.place}")
            self.on_trouble(trouble)
            self.waiting()
            raise trouble from None
        if self.report.trouble:
            self.report.enter("starting")
        return answer

    def _sleep(self, seconds: float) -> None:
        if wait(seconds, self.stop, self._keep_reporting):
            raise Interrupted([])

    def _keep_reporting(self) -> None:
        if self.report.due:
            self.waiting()
