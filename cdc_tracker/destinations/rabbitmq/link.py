"""One connection to RabbitMQ."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pika
from pika import exceptions, spec
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs each failure several times; cdc-tracker reports it once

UNROUTABLE = "no queue takes this routing key"


class Link:
    """One connection with one channel in confirm mode. Callbacks run in the calling thread while a method waits.

    Methods raise AMQPError or OSError; TimeoutError, an OSError, after `timeout` seconds.
    """

    def __init__(self, parameters: pika.URLParameters, timeout: float) -> None:
        self._timeout = timeout
        self._loop = IOLoop()
        self._loop.activate_poller()
        self._failed: BaseException | None = None
        self._closed = self._gone = False
        self.alarm = ""  # the broker's reason for blocking publishers
        self._channel: Channel | None = None
        self._ready = False
        self._answers: dict[int, str] = {}  # delivery tag → why it was not stored; empty if it was
        self._returned: set[tuple[str, str]] = set()  # message id and routing key: two messages may have the same id
        self._last = 0  # delivery tag
        self._lowest = 1  # lower delivery tags are answered, or belong to an earlier batch
        self._connection: Any = SelectConnection(
            parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
            custom_ioloop=self._loop,
        )

    @property
    def usable(self) -> bool:
        """Reads what has arrived. Returns whether the connection is open."""
        if self._failed is None and not self._closed:
            self._loop.call_later(0, lambda: None)  # so that the next line does not wait
            self._turn()
        return self._failed is None and not self._closed and self._ready

    def open(self) -> None:
        """Waits until messages can be published."""
        self._until(lambda: self._ready, "connecting")

    def find(self, exchange: str) -> None:
        """Raises an AMQPError if there is no such exchange."""
        found: list[Any] = []
        self._on_channel().exchange_declare(exchange, passive=True, callback=found.append)
        self._until(lambda: bool(found), "looking for the exchange")

    def publish(self, messages: list[tuple[str, str, bytes, spec.BasicProperties]]) -> list[str]:
        """Publishes the messages and waits for all confirms. Returns for each why it was not stored; empty if it was."""
        channel, first = self._on_channel(), self._last + 1
        self._lowest = first
        self._answers.clear()
        self._returned.clear()
        for exchange, key, body, properties in messages:
            channel.basic_publish(exchange, key, body, properties, mandatory=True)
        self._last += len(messages)
        self._until(lambda: len(self._answers) >= len(messages), "waiting for confirms")
        said = [self._answers[tag] for tag in range(first, self._last + 1)]
        returned = self._returned
        return [UNROUTABLE if (m[3].message_id, m[1]) in returned else answer for m, answer in zip(messages, said, strict=True)]

    def close(self) -> None:
        """Closes the connection; drops it if the broker does not answer within 2 seconds."""
        if self._closed:
            return
        self._closed = True
        if self._connection.is_open:
            self._connection.close()
            self._wait(2.0)
        if not self._gone:
            # The broker does not answer. No public method drops the socket; pika's heartbeats use this one, too.
            self._connection._terminate_stream(exceptions.AMQPHeartbeatTimeout("closed"))
            self._wait(1.0)
        self._loop.deactivate_poller()
        self._loop.close()

    def _wait(self, seconds: float) -> None:
        """Waits for the connection's end, at most so many seconds."""
        waker, deadline = self._loop.call_later(seconds, lambda: None), time.monotonic() + seconds
        while not self._gone and time.monotonic() < deadline:
            self._turn()
        self._loop.remove_timeout(waker)

    def _on_channel(self) -> Channel:
        if self._channel is None:
            raise exceptions.ConnectionWrongStateError("not connected")
        return self._channel

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._timeout
        waker = self._loop.call_later(self._timeout, lambda: None)
        try:
            while not done():
                if self._failed is not None:
                    raise self._failed
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{what} took more than {self._timeout:g} s")
                self._turn()
        finally:
            self._loop.remove_timeout(waker)

    def _turn(self) -> None:
        self._loop.poll()
        self._loop.process_timeouts()

    def _on_end(self, connection: Any, error: BaseException) -> None:
        self._gone = True
        self._fail(error)

    def _opened(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(self._on_alarm)
        connection.add_on_connection_unblocked_callback(lambda connection, method: self._on_alarm(connection, None))
        connection.channel(on_open_callback=self._on_open)

    def _on_alarm(self, connection: Any, method: Any) -> None:
        self.alarm = method.method.reason if method is not None else ""

    def _on_open(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda channel, error: self._fail(error))
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=self._on_ready)

    def _on_ready(self, method: Any) -> None:
        self._ready = True

    def _on_return(self, channel: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
        self._returned.add((str(properties.message_id), str(method.routing_key)))

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        answer = "" if isinstance(method, spec.Basic.Ack) else "the broker could not take it (nack)"
        if not method.multiple:
            self._answers[method.delivery_tag] = answer
            return
        for tag in range(self._lowest, method.delivery_tag + 1):
            self._answers.setdefault(tag, answer)
        self._lowest = method.delivery_tag + 1

    def _fail(self, error: BaseException) -> None:
        if self._failed is None:
            self._failed = error
