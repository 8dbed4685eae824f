"""What is special to databases: typed tables, privileges, failures. What all kinds do is tested on all of them."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace
from pydantic import ValidationError

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.sql import SqlDestination, SqlSettings
from cdc_tracker.errors import BatchRejected, CheckpointMoved, ConfigError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import DELIVERED, REPEATED, START, Batch, Event, Outcome, Position
from tests.postgres import Database, Server, fresh_database
from tests.vendors.kit import Engines
from tests.vendors.mariadb import MariaDb

QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)


@pytest.fixture
def postgresql(pg18: Server) -> Iterator[Database]:
    with fresh_database(pg18) as database:
        yield database


class Place:
    """A database of one of the kinds, and what a test asks of it."""

    most_columns = 1_000

    def __init__(self, folder: Path, database: Database | None) -> None:
        self.folder, self.database = folder, database
        self.url = database.url if database else "sqlite:///events.db"
        self.exact = bool(database)  # a typed number comes back as it was
        self._opened: list[SqlDestination] = []

    def open(self, name: str = "warehouse", **settings: Any) -> SqlDestination:
        given = {"url": self.url, "table_per_event": True} | settings
        self._opened.append(SqlDestination(name, SqlSettings.model_validate(given), self.folder))
        return self._opened[-1]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if self.database:
            with psycopg.connect(self.database.url) as connection:
                return connection.execute(query).fetchall()
        with closing(sqlite3.connect(self.folder / "events.db")) as file:
            return file.execute(query).fetchall()

    def run(self, statement: str) -> None:
        if self.database:
            self.database.execute(statement)
            return
        with closing(_file(self.folder)) as file:
            file.execute(statement)

    def close(self) -> None:
        for one in self._opened:
            one.close()


class MariaDbPlace(Place):
    most_columns = 180

    def __init__(self, folder: Path, server: MariaDb, name: str) -> None:
        super().__init__(folder, None)
        self._server, self._name = server, name
        self.url, self.exact = server.url(name), True

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._server.rows(query.replace("AS text", "AS char"), self._name)

    def run(self, statement: str) -> None:
        self.rows(statement)


def _file(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "events.db", isolation_level=None)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def place(request: pytest.FixtureRequest, tmp_path: Path, engines: Engines) -> Iterator[Place]:
    if request.param == "mariadb":
        server: MariaDb = engines.get("mariadb")
        with server.fresh_database() as name:
            mariadb = MariaDbPlace(tmp_path, server, name)
            yield mariadb
            mariadb.close()
        return
    made = Place(tmp_path, request.getfixturevalue("postgresql") if request.param == "postgresql" else None)
    yield made
    made.close()


def track(n: int, name: str = "Order Paid", /, **properties: Any) -> Event:
    fields = {"type": "track", "event": name, "messageId": f"id-{n}", "userId": "3", "properties": properties}
    return event(n, json.dumps(fields))


def event(n: int, body: str) -> Event:
    return Event(f"id-{n}", json.loads(body)["type"], body.encode(), "m", Position(100, n), 0)


def batch(*events: Event) -> Batch:
    return Batch(events, events[-1].position)


def test_each_event_name_has_a_table_that_widens_as_properties_appear(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(track(0, amount=9.5), track(1, "Signed Up", plan="pro")))
    destination.deliver(batch(track(2, amount=1, **{"Is New": True, "address": {"city": "Köln", "geo": {"lat": 50.9}}})))
    rows = place.rows(
        "SELECT message_id, event, user_id, amount, is_new, address_city, address_geo_lat FROM order_paid ORDER BY 1"
    )
    assert rows == [
        ("id-0", "Order Paid", "3", 9.5, None, None, None),
        ("id-2", "Order Paid", "3", 1, True, "Köln", pytest.approx(Decimal("50.9") if place.exact else 50.9)),
    ]
    assert place.rows("SELECT message_id, plan FROM signed_up") == [("id-1", "pro")]
    assert len(place.rows("SELECT * FROM tracks")) == 3


def test_a_value_that_does_not_fit_its_column_is_null_there_and_whole_in_tracks(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(track(0, n=1, b=True, t="2026-01-02T03:04:05Z", s="x", a=[1, {"k": 2}])))
    destination.deliver(batch(track(1, n="one", b=0, t="2026-02-31T00:00:00Z", s=1.5, a="text")))
    destination.deliver(batch(track(2, n=True, b="yes", t="soon", s=False, a=None)))
    columns = "n, b, t IS NULL, s, a"
    assert place.rows(f"SELECT {columns} FROM order_paid ORDER BY message_id") == [
        (1, True, False, "x", '[1,{"k":2}]'),
        (None, None, True, "1.5", "text"),
        (None, None, True, "false", None),
    ]
    whole = [json.loads(row[0]) for row in place.rows("SELECT CAST(properties AS text) FROM tracks ORDER BY message_id")]
    assert whole[1] == {"n": "one", "b": 0, "t": "2026-02-31T00:00:00Z", "s": 1.5, "a": "text"}


def test_numbers_are_exact_in_typed_columns(place: Place) -> None:
    numbers = ["12345678901234567890123456789.123456789", "9007199254740993", "99999999999999999999", "0.1", "-1E-20", "12.50"]
    body = '{"type":"track","event":"N","messageId":"id-%d","properties":{"n":%s}}'
    place.open().deliver(batch(*[event(n, body % (n, number)) for n, number in enumerate(numbers)]))
    rows = place.rows("SELECT CAST(n AS text) FROM n ORDER BY message_id")
    assert [Decimal(row[0]) for row in rows] == [Decimal(number) for number in numbers]


def test_names_that_are_taken_reserved_odd_or_long_get_tables_and_columns_too(place: Place) -> None:
    destination = place.open()
    long = "A very long event name " * 5
    events = [
        track(0, "Tracks", x=1),
        track(1, "Groups", x=1),
        track(2, "cdc_tracker_checkpoints", x=1),
        track(
            3, "Select", **{"from": 1, "timestamp": "t", "event": "e", "Message ID": "m", "1st": 2, '"; DROP TABLE tracks; --': 3}
        ),
        track(4, long, **{long: 1, long + "!": 2}),
        track(5, "!?", **{"": 1, "%s :p0": 2}),
        track(6, "注文", 値=1),
    ]
    destination.deliver(batch(*events))
    assert len(place.rows("SELECT * FROM tracks")) == 7
    assert place.rows("SELECT message_id, x FROM tracks_event") == [("id-0", 1)]
    assert place.rows("SELECT message_id, x FROM groups_event") == [("id-1", 1)]
    assert place.rows("SELECT message_id, x FROM cdc_tracker_checkpoints_event") == [("id-2", 1)]
    selected = place.rows('SELECT event, "from", property_timestamp, property_event, property_message_id, _1st FROM "select"')
    assert selected == [("Select", 1, "t", "e", "m", 2)]
    assert place.rows('SELECT drop_table_tracks FROM "select"') == [(3,)]
    assert place.rows("SELECT 値 FROM 注文") == [(1,)]
    assert destination.position() == Position(100, 6)


def test_properties_named_like_columns_that_the_database_has_for_itself_get_columns_too(place: Place) -> None:
    names = ["xmin", "XMAX", "cmin", "cmax", "ctid", "tableoid", "oid", "rowid"]  # of PostgreSQL and SQLite
    names += ["DB_ROW_ID", "DB_TRX_ID", "DB_ROLL_PTR", "FTS_DOC_ID"]  # of InnoDB
    destination = place.open()
    destination.deliver(batch(track(0, **{name: name for name in names})))
    [row] = place.rows("SELECT * FROM order_paid")
    assert set(names) <= set(row)


HOSTILE = [
    *("1e5000", "-1e5000", "1e-5000", "9" * 5_000, f"[{'9' * 5_000}, 1e5000]", '{"b":{"c":%s}}' % ("9" * 4_400), "1e-16000"),
    *('"2026-01-01T00:00:00+23:00"', '"2026-01-01T00:00:00-15:59"', '"0001-01-01T00:00:00+10:00"', '"9999-12-31T23:59:59-10:00"'),
    *('"text"', "true", "null", "1", '"2026-01-01T00:00:00Z"', "[]", "{}", "[" * 500 + "]" * 500),
]


@pytest.mark.parametrize("first", ["1", '"2026-01-01T00:00:00Z"', "true", '"text"'])
def test_no_value_keeps_an_event_from_its_tables(place: Place, first: str) -> None:
    bodies = ['{"type":"track","event":"Order Paid","messageId":"id-%d","userId":"3","properties":{"a":%s}}'] * (len(HOSTILE) + 1)
    events = []
    for n, (body, value) in enumerate(zip(bodies, [first, *HOSTILE], strict=True)):
        events.append(Event(f"id-{n}", "track", (body % (n, value)).encode(), "m", Position(100, n), 0))
    place.open().deliver(batch(*events))
    assert len(place.rows("SELECT message_id FROM order_paid")) == len(place.rows("SELECT message_id FROM tracks")) == len(events)


@pytest.mark.parametrize(
    "value", ["x" * 20, "x" * 4_000, "2026-01-01T00:00:00Z", 123456789.125, 7], ids=lambda value: str(value)[:9]
)
def test_a_row_with_more_values_than_go_into_it_has_the_first_ones(place: Place, value: Any) -> None:
    place.open().deliver(batch(track(0, **{f"c{n}": value for n in range(1_700)})))
    [row] = place.rows("SELECT * FROM order_paid")
    assert len(row) == place.most_columns
    assert place.most_columns - row.count(None) >= min(300, place.most_columns - 4)
    assert len(place.rows("SELECT message_id FROM tracks")) == 1


def test_a_table_of_someone_else_is_left_alone(place: Place) -> None:
    place.run("CREATE TABLE users (id integer, name text)")
    destination = place.open()
    with pytest.raises(DestinationBlocked, match="the table users exists, and cdc-tracker did not create it"):
        destination.deliver(batch(track(0, "Users", plan="pro")))
    assert place.rows("SELECT * FROM users") == []
    destination.deliver(batch(track(1, "Signed Up", plan="pro")))
    assert place.rows("SELECT message_id FROM tracks") == [("id-1",)]


def test_the_other_types_have_tables_as_in_segments_warehouses(place: Place) -> None:
    bodies = [
        '{"type":"identify","messageId":"id-0","userId":"3","traits":{"plan":"pro"}}',
        '{"type":"group","messageId":"id-1","userId":"3","groupId":"g","traits":{"seats":4}}',
        '{"type":"alias","messageId":"id-2","userId":"3","previousId":"a"}',
        '{"type":"page","name":"Home","messageId":"id-3","userId":"3","properties":{"path":"/"}}',
        '{"type":"screen","name":"Main","messageId":"id-4","userId":"3"}',
    ]
    place.open().deliver(batch(*[event(n, body) for n, body in enumerate(bodies)]))
    assert place.rows("SELECT user_id, plan FROM identifies") == [("3", "pro")]
    assert place.rows("SELECT group_id, seats FROM groups") == [("g", 4)]
    assert place.rows("SELECT previous_id FROM aliases") == [("a",)]
    assert place.rows("SELECT event, path FROM pages") == [("Home", "/")]
    assert place.rows("SELECT event FROM screens") == [("Main",)]


def test_keys_without_end_do_not_widen_a_table_without_end(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(*[track(n, **{f"k{n}_{i}": i for i in range(300)}) for n in range(5)]))
    count = len(place.rows("SELECT * FROM order_paid")[0])
    assert count == place.most_columns
    assert len(place.rows("SELECT * FROM tracks")) == 5


def test_what_someone_dropped_is_made_again(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(track(0, a=1)))
    place.run("DROP TABLE order_paid")
    with pytest.raises((DestinationBlocked, DestinationUnavailable)):
        destination.deliver(batch(track(1, a=1)))
    destination.deliver(batch(track(1, a=1)))
    assert place.rows("SELECT message_id FROM order_paid") == [("id-1",)]


def test_events_that_someone_dropped_beside_their_checkpoint_are_sent_again(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(track(0), track(1)))
    place.run("DROP TABLE tracks")
    with pytest.raises(CheckpointMoved):
        for _ in range(2):
            with suppress(DestinationUnavailable):
                destination.deliver(batch(track(2)))
    assert place.open().position() == START
    again = place.open()
    again.deliver(batch(track(0), track(1), track(2)))
    assert len(place.rows("SELECT message_id FROM tracks")) == 3


def test_turned_on_later_typed_tables_fill_by_a_rewind(place: Place) -> None:
    first = place.open(table_per_event=False)
    first.deliver(batch(track(0, a=1)))
    first.close()
    place.open().deliver(batch(track(0, a=1)))
    assert place.rows("SELECT a FROM order_paid") == [(1,)]
    assert len(place.rows("SELECT * FROM tracks")) == 1


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)  # MySQL does not tell
def test_an_id_that_is_there_already_is_told_unless_it_is_ours_whose_answer_was_lost(place: Place) -> None:
    first, second, third = (track(n) for n in range(3))
    destination = place.open()
    assert destination.deliver(batch(first, second)) == [DELIVERED, DELIVERED]
    assert destination.deliver(batch(first, second)) == [DELIVERED, DELIVERED]
    later = replace(first, position=Position(200, 0))
    assert destination.deliver(Batch([second, third, third, later], Position(200, 0))) == [
        REPEATED,
        DELIVERED,
        REPEATED,
        REPEATED,
    ]
    assert destination.deliver(Batch([first], Position(0, -1), out_of_band="job 1")) == [DELIVERED]
    assert place.rows("SELECT count(*) FROM tracks") == [(3,)]


def test_several_destinations_share_a_database(place: Place) -> None:
    one, two = place.open("one"), place.open("two", table="other")
    one.deliver(batch(track(0)))
    two.deliver(batch(track(0), track(1)))
    assert (one.position(), two.position()) == (Position(100, 0), Position(100, 1))
    assert len(place.rows("SELECT * FROM tracks")) == 1


def test_what_a_constraint_refuses_is_rejected_alone_and_its_values_are_not_shown(place: Place) -> None:
    destination = place.open(table_per_event=False)
    destination.deliver(batch(track(0)))
    check = "NEW.message_id = 'id-2'"
    if place.url.startswith(("postgresql:", "mariadb:")):
        place.run("ALTER TABLE tracks ADD CHECK (message_id <> 'id-2')")
    else:
        place.run(f"CREATE TRIGGER t BEFORE INSERT ON tracks WHEN {check} BEGIN SELECT RAISE(ABORT, 'refused by a trigger'); END")
    made = batch(track(1), track(2, secret="s3same"), track(3))
    receipts = send(destination, made, stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED, Outcome.REJECTED, Outcome.DELIVERED]
    assert receipts[1].detail
    assert "s3same" not in receipts[1].detail


def test_a_body_that_is_no_event_is_unexplained(place: Place) -> None:
    with pytest.raises(BatchRejected, match="not in the shape"):
        place.open().deliver(batch(event(0, '{"type":"track","messageId":7}')))


# PostgreSQL


def test_destinations_that_start_together_make_their_tables_once(postgresql: Database, tmp_path: Path) -> None:
    place = Place(tmp_path, postgresql)
    destinations = [place.open(f"d{n}", schema="analytics") for n in range(6)]
    failures: list[Exception] = []

    def begin(destination: SqlDestination, n: int) -> None:
        try:
            destination.deliver(batch(track(n, a=1, b=2)))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=begin, args=(one, n), daemon=True) for n, one in enumerate(destinations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert postgresql.value("SELECT count(*) FROM analytics.order_paid WHERE b = 2") == 6
    place.close()


def test_without_privileges_it_is_blocked_with_a_hint_until_they_are_granted(postgresql: Database, tmp_path: Path) -> None:
    postgresql.execute(
        "CREATE ROLE writer LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO writer"
    )
    try:
        settings = SqlSettings.model_validate({"url": postgresql.url_as("writer")})
        destination = SqlDestination("warehouse", settings, tmp_path)
        with pytest.raises(DestinationBlocked, match="not allowed to create tracks, create cdc_tracker_checkpoints"):
            destination.probe()
        with pytest.raises(DestinationBlocked, match="permission denied for schema public") as caught:
            destination.deliver(batch(track(0)))
        assert "CREATE on the schema" in caught.value.hint
        owner = SqlDestination("other", SqlSettings.model_validate({"url": postgresql.url}), tmp_path)
        owner.deliver(batch(track(1)))
        owner.close()
        with pytest.raises(DestinationBlocked, match="SELECT, INSERT and UPDATE in tracks"):
            destination.probe()
        postgresql.execute("GRANT SELECT, INSERT, UPDATE ON tracks, cdc_tracker_checkpoints TO writer")
        destination.probe()
        destination.deliver(batch(track(0)))
        destination.close()
    finally:
        postgresql.execute("DROP OWNED BY writer; DROP ROLE writer")


def test_failures_of_the_connection_are_passing_or_blocked_and_show_no_password(postgresql: Database, tmp_path: Path) -> None:
    postgresql.execute("CREATE ROLE shut LOGIN PASSWORD 'right' IN ROLE with_password")
    try:
        cases = [
            (postgresql.url_as("shut", password="s3same", tcp=True), DestinationBlocked),
            (postgresql.url_as("nobody_there"), DestinationBlocked),
            ("postgresql://shut:s3same@127.0.0.1:1/x", DestinationUnavailable),
        ]
        for url, error in cases:
            destination = SqlDestination("warehouse", SqlSettings.model_validate({"url": url}), tmp_path)
            for call in (destination.probe, destination.position, lambda it=destination: it.deliver(batch(track(0)))):
                with pytest.raises(error) as caught:
                    call()
                assert type(caught.value) is error
                assert "s3same" not in str(caught.value) + repr(caught.value.__cause__)
            destination.close()
    finally:
        postgresql.execute("DROP ROLE shut")


def test_it_goes_on_after_the_server_ended_its_connection(postgresql: Database, tmp_path: Path) -> None:
    destination = Place(tmp_path, postgresql).open()
    destination.deliver(batch(track(0)))
    postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc-tracker'")
    receipts = send(destination, batch(track(1)), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)
    assert [receipt.outcome for receipt in receipts] == [Outcome.DELIVERED]
    assert destination.position() == Position(100, 1)
    destination.close()


def test_commits_are_durable_where_the_servers_default_is_not(postgresql: Database, tmp_path: Path) -> None:
    postgresql.execute(f"ALTER DATABASE {postgresql.name} SET synchronous_commit = off")
    destination = Place(tmp_path, postgresql).open(table_per_event=False)
    destination.deliver(batch(track(0)))
    postgresql.execute(
        "CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.event := current_setting('synchronous_commit');"
        "RETURN NEW; END $$; CREATE TRIGGER seen BEFORE INSERT ON tracks FOR EACH ROW EXECUTE FUNCTION seen()"
    )
    destination.deliver(batch(track(1)))
    assert postgresql.value("SELECT event FROM tracks WHERE message_id = 'id-1'") == "on"
    destination.close()


# SQLite


def test_a_locked_file_is_a_passing_fault(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    destination = place.open(url="sqlite:///events.db?timeout=0.05")
    destination.deliver(batch(track(0)))
    with closing(_file(tmp_path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DestinationUnavailable, match="locked"):
            destination.deliver(batch(track(1)))
        other.execute("ROLLBACK")
    destination.deliver(batch(track(1)))
    place.close()


def test_a_file_that_is_no_database_is_blocked(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"something else entirely " * 100)
    place = Place(tmp_path, None)
    with pytest.raises(DestinationBlocked, match="not a database"):
        place.open().position()
    place.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        SqlDestination("w", SqlSettings.model_validate({"url": "sqlite:///none/events.db"}), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "oracle://u:s3same@h/d"},
        {"url": "mysql://u:s3same@h"},
        {"url": "mysql://u:s3same@h/d", "schema": "s"},
        {"url": "s3same"},
        {"url": "sqlite://"},
        {"url": "sqlite:///x.db", "schema": "s"},
        {"url": "sqlite:///x.db", "table": 'a"b'},
        {"url": "sqlite:///x.db", "in_flight": 2},
    ],
)
def test_settings_that_do_not_hold_are_refused_without_showing_the_url(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        SqlSettings.model_validate(settings)
    assert "s3same" not in str(caught.value)
