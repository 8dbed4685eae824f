"""Databases in other encodings than UTF-8: rows, names and messages come as what they are, or are told to be unreadable."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdc_tracker.config.settings import OutboxSettings
from cdc_tracker.model import Event, Missing, Rejection
from cdc_tracker.pipeline.outbox import OutboxReader
from cdc_tracker.sources.postgres.scripts import script
from tests.integration.stream import Tap, agreed, decode, tapped
from tests.postgres import Database, Server, drop_database

WORDS = {
    "LATIN1": "größer",
    "WIN1252": "größer – “zwölf” €",
    "KOI8R": "больше",
    "EUC_JP": "日本",
    "EUC_TW": "臺灣",
    "EUC_JIS_2004": "日本①",
    "EUC_KR": "더 크다",
    "ISO_8859_8": "גדול",
    "UTF8": "größer 日本 🛒",
}
OLD_EMIT = (
    'SELECT pg_logical_emit_message(true, \'cdc_tracker\', \'{"type": "track", "event": "\' || %s || \'", "userId": "u"}\')'
)


@contextmanager
def encoded(server: Server, encoding: str) -> Iterator[Database]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    server.execute(f"ALTER DATABASE {name} SET client_encoding TO 'UTF8'")  # of the test's own connections
    try:
        yield Database(server, name)
    finally:
        drop_database(server, name)


def told(tap: Tap) -> list[Event | Rejection | None]:
    """What the messages become."""
    reader = OutboxReader(OutboxSettings(), uuid.UUID(int=7), "d")
    return [reader.from_message(change) for change in decode(tap.segments()) if change.op == "m"]


def names(made: list[Event | Rejection | None]) -> list[object]:
    return [one.decoded()["event"] if isinstance(one, Event) else one and one.reason for one in made]


@pytest.mark.servers("pg15", "pg18")
@pytest.mark.parametrize("encoding", WORDS)
def test_rows_names_and_messages_are_read_as_what_they_are(server: Server, encoding: str) -> None:
    word = WORDS[encoding]
    with encoded(server, encoding) as database, database.connect() as connection:
        connection.execute(f'CREATE TABLE "{word}" (id int PRIMARY KEY, "{word}" text)'.encode())
        connection.execute(script("functions").encode())
        with tapped(database, ["pgoutput"], [f"public.{word}"]) as taps:
            connection.execute(f'INSERT INTO "{word}" VALUES (1, %s)'.encode(), [word])
            connection.execute(f'UPDATE "{word}" SET id = 2'.encode())
            connection.execute("SELECT cdc_tracker.track(%s, %s, jsonb_build_object('k', %s::text))", [word, word, word])
            connection.execute(OLD_EMIT.encode(), [word])  # as `setup` of an earlier version had it
            connection.execute("SELECT cdc_tracker.track('plain', 'u')")
            inserted, updated, *_ = agreed(taps)
            made = told(taps[0])
    assert (inserted.table, inserted.new) == (f"public.{word}", {"id": "1", word: word})
    assert updated.new == {"id": "2", word: word}
    assert names(made) == [word, word, "plain"]
    assert isinstance(made[0], Event)
    assert (made[0].decoded()["userId"], made[0].decoded()["properties"]) == (word, {"k": word})


def test_a_message_that_its_encoding_does_not_have_is_parked_and_the_caller_s_work_goes_on(server: Server) -> None:
    with encoded(server, "WIN1252") as database, database.connect() as connection:
        connection.execute(script("functions").encode())
        connection.execute("CREATE TABLE t (id int)")
        with tapped(database, ["pgoutput"], ["public.t"]) as taps:
            connection.execute("SELECT cdc_tracker.track('a' || convert_from('\\x81'::bytea, 'WIN1252'), 'u')")
            connection.execute("SELECT cdc_tracker.track('next', 'u')")
            made = told(taps[0])
    assert names(made) == ["invalid_encoding", "next"]


@pytest.mark.servers("pg15", "pg18")
def test_a_row_that_is_no_utf_8_is_told_to_be_unreadable_and_the_stream_goes_on(server: Server) -> None:
    """A SQL_ASCII database takes any bytes and knows no encoding."""
    with encoded(server, "SQL_ASCII") as database, database.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text, w text); ALTER TABLE t REPLICA IDENTITY FULL")
        connection.execute("DO $$ BEGIN EXECUTE E'ALTER TABLE t ADD \"gr\\xf6\\xdfe\" int'; END $$")
        connection.execute(script("functions").encode())
        with tapped(database, ["pgoutput"], ["public.t"]) as taps:
            connection.execute("INSERT INTO t VALUES (1, E'gr\\xf6\\xdfe', 'größe')".encode())
            connection.execute(f"INSERT INTO t VALUES (2, '{'x' * 300}', E'{'y' * 300}\\xff')")
            connection.execute("UPDATE t SET w = 'plain' WHERE id = 1")
            connection.execute("DELETE FROM t WHERE id = 1")
            connection.execute("INSERT INTO t VALUES (3, 'größe', 'plain')".encode())
            connection.execute("SELECT cdc_tracker.track(E'gr\\xf6\\xdfe', 'u')")
            connection.execute("SELECT cdc_tracker.track('größe', 'u')".encode())
            found = agreed(taps)
            made = told(taps[0])
    odd = {"gr\\xf6\\xdfe": None}
    assert [change.new for change in found if change.op in "cu"] == [
        {"id": "1", "v": Missing.UNREADABLE, "w": "größe", **odd},
        {"id": "2", "v": "x" * 300, "w": Missing.UNREADABLE, **odd},
        {"id": "1", "v": Missing.UNREADABLE, "w": "plain", **odd},
        {"id": "3", "v": "größe", "w": "plain", **odd},
    ]
    assert [change.old for change in found if change.op == "d"] == [{"id": "1", "v": Missing.UNREADABLE, "w": "plain", **odd}]
    assert names(made) == ["invalid_encoding", "größe"]
