"""Traffic for the demo shop: threads that ring up one real transaction after the other, each a sequence fixed by its seed."""

from __future__ import annotations

import random
import threading
import time

import psycopg

from cdc_tracker.demo.till import PutBack, Till


class Shopper(threading.Thread):
    """One connection at about `rate` transactions a second, until `stop` is called. `failure` is what ended it early."""

    def __init__(self, url: str, *, seed: int, rate: float) -> None:
        super().__init__(name=f"shopper-{seed}")
        self.rows = 0  # committed
        self.transactions = 0
        self.rolled_back = 0
        self.failure: Exception | None = None
        self._url = url
        self._seed = seed
        self._pause = 1 / rate
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True, application_name=self.name) as connection:
                self._shop(Till(connection, self._seed, random.Random(self._seed)))  # noqa: S311 -- a shop, not a key
        except psycopg.Error as error:
            self.failure = error

    def _shop(self, till: Till) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            try:
                self.rows += till.ring_up()
                self.transactions += 1
            except PutBack:
                self.rolled_back += 1
            due = max(due + self._pause, time.monotonic() - 1)  # catches up with a stall, though not for ever
