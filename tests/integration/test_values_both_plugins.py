"""Random rows of every type: what the decoders make of them, against each other and against what SELECT prints.

wal2json cannot carry NaN and the infinities of floats and numerics: it has null there, and nothing else may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from cdc_tracker.model import Special, canonical
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.values import codec
from tests.integration.stream import Seen, Tap, flushed, tapped
from tests.integration.value_types import LITERALS, PREPARE
from tests.postgres import Database, Server, fresh_database, plugins

COLUMNS = {f"c{place}_{''.join(c if c.isalnum() else '_' for c in name)}": name for place, name in enumerate(LITERALS)}
BATCH = 8
NOT_NUMBERS = {"NaN", "Infinity", "-Infinity"}
NUMBERS = {"float4", "float8", "numeric"}
Literals = dict[str, str | None]


class Place(NamedTuple):
    server: Server
    database: Database
    connection: psycopg.Connection
    taps: dict[str, Tap]


@pytest.fixture(scope="module")
def place(server: Server) -> Iterator[Place]:
    with fresh_database(server) as database:
        columns = ", ".join(f"{name} {type_name}" for name, type_name in COLUMNS.items())
        database.execute(f"{PREPARE}; CREATE TABLE every (id serial PRIMARY KEY, {columns}, note int)")
        database.execute("ALTER TABLE every REPLICA IDENTITY FULL")
        with (
            tapped(database, plugins(server), ["public.every"]) as taps,
            connect(database.url, statement_timeout=60.0) as connection,
        ):
            yield Place(server, database, connection, {tap.plugin: tap for tap in taps})


ROW = st.fixed_dictionaries({name: st.none() | LITERALS[type_name] for name, type_name in COLUMNS.items()})


def _empty(**given: str) -> Literals:
    """A row of NULLs, but for one column of each type named."""
    row: Literals = dict.fromkeys(COLUMNS)
    for type_name, literal in given.items():
        row[next(column for column, name in COLUMNS.items() if name == type_name)] = literal
    return row


@given(rows=st.lists(ROW, min_size=BATCH, max_size=BATCH))
@example(rows=[_empty(float8="-0", float4="-0", numeric="9" * 6000), _empty(float8="NaN", numeric="Infinity")])
@example(rows=[_empty(numeric="-" + "1" * 400), _empty(text='","value":-0}'), _empty(bytea="")])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
def test_rows_of_every_type_are_what_select_prints_under_each_plugin(place: Place, rows: list[Literals]) -> None:
    since = flushed(place.database)
    ids = _write(place.connection, rows)
    expected = _printed(place.connection, ids)
    with place.connection.transaction():
        place.connection.execute("UPDATE every SET note = 1 WHERE id = ANY (%s)", [ids])
        place.connection.execute("DELETE FROM every WHERE id = ANY (%s)", [ids])
    found = {plugin: tap.read(since) for plugin, tap in place.taps.items()}
    oids = _oids(place.connection)
    for plugin, changes in found.items():
        assert [change.op for change in changes] == ["c"] * len(ids) + ["u"] * len(ids) + ["d"] * len(ids)
        _compare(plugin, changes, expected, oids)
    if "wal2json" in found:
        for one, other in zip(found["wal2json"], found["pgoutput"], strict=True):
            assert one.where == other.where


def _write(connection: psycopg.Connection, rows: Sequence[Literals]) -> list[int]:
    cells = sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(name)) for name in COLUMNS.values())
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    statement = sql.SQL("INSERT INTO every ({}) VALUES ({}) RETURNING id").format(columns, cells)
    ids = []
    with connection.transaction():
        for row in rows:
            written = connection.execute(statement, [row[name] for name in COLUMNS]).fetchone()
            assert written
            ids.append(written[0])
    return ids


def _printed(connection: psycopg.Connection, ids: list[int]) -> list[dict[str, str | None]]:
    """The rows as the server prints them: `col::text` is not that for boolean and bpchar."""
    cursor = connection.execute("SELECT * FROM every WHERE id = ANY (%s) ORDER BY id", [ids])
    result, names = cursor.pgresult, [column.name for column in cursor.description or ()]
    assert result
    return [
        {name: None if (cell := result.get_value(row, place)) is None else cell.decode() for place, name in enumerate(names)}
        for row in range(result.ntuples)
    ]


def _oids(connection: psycopg.Connection) -> dict[str, int]:
    return {column.name: column.type_code for column in connection.execute("SELECT * FROM every LIMIT 0").description or ()}


def _compare(plugin: str, changes: list[Seen], expected: list[dict[str, str | None]], oids: dict[str, int]) -> None:
    """Insert, update and delete of the rows: the update sets `note`, whose old value is NULL. In whatever order it found them."""
    for row in expected:
        before = {name: _carried(plugin, name, text) for name, text in row.items()}
        after = {**before, "note": "1"}
        shown = [(change.op, change.new, change.old) for change in changes if row["id"] in (_id(change.new), _id(change.old))]
        _same(shown, [("c", before, None), ("u", after, before), ("d", None, after)])
        for name, text in row.items():
            if text is not None:
                _is_readable(oids[name], text)


def _id(row: Mapping[str, object] | None) -> object:
    return row["id"] if row else None


def _same(found: list[Any], wanted: list[Any]) -> None:
    """As `==`, but saying only which cells differ."""
    assert [op for op, _, _ in found] == [op for op, _, _ in wanted]
    for (op, *rows), (_, *others) in zip(found, wanted, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert (row is None) == (other is None)
            if row is not None:
                assert list(row) == list(other)
                assert [(op, name, row[name]) for name in row if row[name] != other[name]] == []


def _carried(plugin: str, column: str, text: str | None) -> str | None:
    lost = plugin == "wal2json" and text in NOT_NUMBERS and COLUMNS.get(column) in NUMBERS
    return None if lost else text


def _is_readable(oid: int, text: str) -> None:
    made = codec(oid)
    value = made.load(text)
    if not isinstance(value, Special):
        assert canonical(value) == made.to_json(text)
