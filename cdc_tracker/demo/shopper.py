"""Threads that run the demo shop's transactions one after the other. The seed fixes each thread's sequence."""

from __future__ import annotations

import random
import threading
import time

import psycopg

from cdc_tracker.demo.traffic import RolledBack, Traffic


class Shopper(threading.Thread):
    """One connection at about `rate` transactions a second, until `stop` is called. `failure`: the error that ended it early."""

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
                self._shop(Traffic(connection, self._seed, random.Random(self._seed)))  # noqa: S311 -- a shop, not a key
        except psycopg.Error as error:
            self.failure = error

    def _shop(self, traffic: Traffic) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            try:
                self.rows += traffic.transact()
                self.transactions += 1
            except RolledBack:
                self.rolled_back += 1
            due = max(due + self._pause, time.monotonic() - 1)  # catches up with a stall of at most a second
