"""COPY … TO STDOUT, line by line as the server sends it.

It uses the extended protocol, which psycopg's `copy` does not: PostgreSQL then accepts one statement only, whatever the text.
"""

from __future__ import annotations

import select
import time

import psycopg
from psycopg import pq

from cdc_tracker.errors import SourceUnavailable
from cdc_tracker.sources.postgres.connection import Connection


def copy_lines(connection: Connection, statement: bytes, most: int, patience: float) -> tuple[list[memoryview], bool]:
    """(lines without their newline, whether these are all). It stops at `most` bytes; the connection must be closed then.

    Raises psycopg's errors, and SourceUnavailable if the server is silent for `patience` seconds.
    """
    pg = connection.pgconn
    pg.send_query_params(statement, [])
    answer = _answer(pg, patience)
    if answer.status != pq.ExecStatus.COPY_OUT:
        _drain(pg, patience)
        raise psycopg.errors.error_from_result(answer)
    lines: list[memoryview] = []
    size, get = 0, pg.get_copy_data
    while True:
        length, data = get(1)
        if length > 0:
            lines.append(data[:-1])
            size += length
            if size >= most:
                return lines, False
        elif length == 0:
            _wait(pg, patience)
        else:
            break
    done = _answer(pg, patience)
    _drain(pg, patience)
    if done.status != pq.ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(done)
    return lines, True


def _answer(pg: pq.abc.PGconn, patience: float) -> pq.abc.PGresult:
    while pg.flush():
        _wait(pg, patience, writing=True)
    while pg.is_busy():
        _wait(pg, patience)
    answer = pg.get_result()
    if answer is None:
        raise SourceUnavailable("the server ended a read without an answer")
    return answer


def _drain(pg: pq.abc.PGconn, patience: float) -> None:
    """Reads the rest of the answer, so that the connection can be used again."""
    while True:
        while pg.is_busy():
            _wait(pg, patience)
        if pg.get_result() is None:
            return


def _wait(pg: pq.abc.PGconn, patience: float, *, writing: bool = False) -> None:
    socket = select.poll()
    socket.register(pg.socket, select.POLLIN | (select.POLLOUT if writing else 0))
    began = time.monotonic()
    if not socket.poll(patience * 1000):
        raise SourceUnavailable(f"the server has been silent for {time.monotonic() - began:.0f} s in a read")
    pg.consume_input()
