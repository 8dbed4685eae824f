"""Standard output and its readers."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from cdc_tracker.destinations.stdout import StdoutDestination, StdoutSettings
from cdc_tracker.errors import Stop
from cdc_tracker.model import DELIVERED, Batch, Event, Position


def batch(*bodies: bytes) -> Batch:
    return Batch([Event("id", "track", body, "m", Position(1, n), 0) for n, body in enumerate(bodies)], Position(1, 9))


def test_each_event_is_a_line() -> None:
    stream = io.BytesIO()
    destination = StdoutDestination("out", StdoutSettings(), Path(), stream)
    assert destination.deliver(batch(b'{"a":1}', b'{"b":\n2}')) == [DELIVERED] * 2
    destination.close()
    assert stream.getvalue() == b'{"a":1}\n{"b": 2}\n'


def test_without_a_stream_it_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    StdoutDestination("out", StdoutSettings(), Path()).deliver(batch(b"{}"))
    assert capfdbinary.readouterr().out == b"{}\n"


def test_a_reader_that_has_gone_away_stops_the_role() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "wb", buffering=0)
    with stream, pytest.raises(Stop, match="has closed the pipe"):
        StdoutDestination("out", StdoutSettings(), Path(), stream).deliver(batch(b"{}"))
