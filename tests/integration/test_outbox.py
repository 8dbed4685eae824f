"""Both outboxes through a real stream: the table's rows and the SQL functions, with every plugin."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from cdc_tracker.config.settings import OutboxSettings, SourceSettings
from cdc_tracker.model import START, Change, Event, Rejection, Relation, parse_lsn
from cdc_tracker.pipeline import outbox
from cdc_tracker.pipeline.outbox import OutboxReader
from cdc_tracker.sources.postgres import catalog, pgoutput, placement, publication, scripts, slot, wal2json
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.sources.postgres.replication import ReplicationStream
from tests.postgres import Database

SPACE = uuid.UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")


class Stream:
    """The outbox set up as `setup` does it, and what has come of it since."""

    def __init__(self, database: Database, plugin: str, layout: OutboxSettings) -> None:
        self.database, self.plugin, self.layout = database, plugin, layout
        settings = SourceSettings(url=SecretStr(database.url), outbox=layout)
        self.name = f"s_{database.name}"
        with closing(connect(database.url)) as connection:
            for script in scripts.outbox(layout):
                connection.execute(script.encode())
            wanted = placement.desired(connection, settings, {})
            assert wanted.problems == ()
            publication.apply(connection, publication.plan(wanted.publications, {}))
            slot.create(connection, self.name, plugin)
        self.publications = ",".join(publication.names(settings))

    def made(self) -> list[Event | Rejection]:
        """Everything that the outbox has given so far. Reading again gives the same: nothing is confirmed."""
        reader = OutboxReader(self.layout, SPACE, self.database.name)
        found = []
        for change in self._changes(reader):
            made = reader.from_message(change) if change.relation is None else reader.from_row(change)
            if made is not None:
                found.append(made)
        return found

    def events(self) -> list[dict[str, Any]]:
        return [made.decoded() for made in self.made() if isinstance(made, Event)]

    def _changes(self, reader: OutboxReader) -> Iterator[Change]:
        def wanted(relation: Relation) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
            return (reader.columns, ()) if relation.table == self.layout.table else None

        decoder = wal2json.Decoder(wanted) if self.plugin == "wal2json" else pgoutput.Decoder(wanted)
        with closing(connect(self.database.url)) as connection, ReplicationStream(self.database.url) as stream:
            builder = self._builder(connection)
            connection.execute("SELECT pg_current_xact_id()")  # a commit, so that the end is flushed
            end = parse_lsn(str(self.database.value("SELECT pg_current_wal_flush_lsn()")))
            options = wal2json.options() if self.plugin == "wal2json" else pgoutput.options(self.publications)
            stream.start(self.name, 0, options)
            deadline = time.monotonic() + 20
            while builder.seen.commit_lsn < end and stream.wal_end < end and time.monotonic() < deadline:
                stream.wait(0.1)
                while (frame := stream.receive()) is not None:
                    builder.add(frame)
                stream.feedback(0, 0, ask=True)
            segment = builder.close()
        if segment is not None:
            yield from decoder.changes(segment, START)

    def _builder(self, connection: psycopg.Connection[Any]) -> pgoutput.Builder | wal2json.Builder:
        def describe(schema: str, table: str) -> wal2json.Description | None:
            found = catalog.tables(connection, [f"{schema}.{table}"]).get(self.layout.table)
            if found is None:
                return None
            columns = tuple((column.name, column.type_oid, column.key) for column in found.columns)
            return wal2json.Description(schema, table, schema, table, found.logged, columns)

        return wal2json.Builder(START, describe) if self.plugin == "wal2json" else pgoutput.Builder(START)


@pytest.fixture
def stream(database: Database, plugin: str) -> Stream:
    return Stream(database, plugin, OutboxSettings())


def test_an_outbox_row_becomes_its_event_even_when_deleted_in_its_transaction(stream: Stream) -> None:
    row = "11111111-1111-4111-8111-111111111111"
    stream.database.execute(
        f"""BEGIN;
        INSERT INTO cdc_tracker.outbox (id, event, user_id, properties, context, "timestamp")
        VALUES ('{row}', 'Order Paid', 'u1', '{{"revenue": 9.50, "note": "é\\"x"}}', '{{"ip": "10.0.0.1", "source": "no"}}',
                '2026-01-02 03:04:05.5+01');
        DELETE FROM cdc_tracker.outbox; COMMIT"""
    )
    [made] = stream.made()
    assert isinstance(made, Event)
    body = made.body.decode()
    assert '"revenue":9.50' in body
    assert list(made.decoded()) == ["type", "event", "messageId", "userId", "properties", "context", "timestamp"]
    event = made.decoded()
    assert (event["type"], event["event"], event["userId"], event["timestamp"]) == (
        "track",
        "Order Paid",
        "u1",
        "2026-01-02T02:04:05.500000Z",
    )
    assert event["context"]["ip"] == "10.0.0.1"
    assert list(event["context"]) == ["ip", "source", "library"]
    assert {"db": stream.database.name, "schema": "cdc_tracker", "table": "outbox", "op": "c"}.items() <= event["context"][
        "source"
    ].items()
    assert made.message_id == str(uuid.uuid5(SPACE, f'outbox|["{row}"]')) == event["messageId"]
    assert (made.mapping, made.type) == ("outbox", "track")
    assert stream.made() == [made]


def test_a_row_of_every_type_has_the_shape_of_its_type(stream: Stream) -> None:
    stream.database.execute(
        """INSERT INTO cdc_tracker.outbox (type, event, user_id, anonymous_id, group_id, previous_id, properties) VALUES
        ('identify', NULL, 'u1', 'a1', NULL, NULL, '{"plan": "pro"}'), ('group', NULL, 'u1', NULL, 'g1', NULL, '{"size": 3}'),
        ('alias', NULL, 'u2', NULL, NULL, 'u1', '{}'), ('page', 'Home', NULL, 'a1', NULL, NULL, '{}'),
        ('screen', 'Start', 'u1', NULL, NULL, NULL, '{"x": null}')"""
    )
    events = stream.events()
    kept = [{key: value for key, value in event.items() if key not in {"messageId", "context", "timestamp"}} for event in events]
    assert kept == [
        {"type": "identify", "userId": "u1", "anonymousId": "a1", "traits": {"plan": "pro"}},
        {"type": "group", "userId": "u1", "groupId": "g1", "traits": {"size": 3}},
        {"type": "alias", "userId": "u2", "previousId": "u1"},
        {"type": "page", "name": "Home", "anonymousId": "a1"},
        {"type": "screen", "name": "Start", "userId": "u1", "properties": {"x": None}},
    ]
    assert len({event["messageId"] for event in events}) == 5


def test_the_functions_emit_what_the_transaction_commits_and_nothing_else(stream: Stream) -> None:
    with closing(psycopg.connect(stream.database.url)) as connection:
        connection.execute("SELECT cdc_tracker.track('Taken Back', 'u1')")
        connection.rollback()
        connection.execute("""SELECT cdc_tracker.track('Order Paid', '42', '{"revenue": 9.50}', message_id => 'pay-42')""")
        connection.execute("""SELECT cdc_tracker.identify('42', '{"plan": "pro"}', "timestamp" => '2026-01-02 03:04:05+01')""")
        connection.execute("""SELECT cdc_tracker."group"('g1', '42', '{"size": 3}'), cdc_tracker.alias('old', '42')""")
        connection.execute(
            "SELECT cdc_tracker.emit('screen', 'Home', anonymous_id => 'a1'), pg_logical_emit_message(true, 'x', '{}')"
        )
        slot.heartbeat(connection)
        connection.commit()
    events = stream.events()
    assert [event["type"] for event in events] == ["track", "identify", "group", "alias", "screen"]
    track, identify, group, alias, screen = events
    assert (track["event"], track["messageId"], str(track["properties"]["revenue"])) == ("Order Paid", "pay-42", "9.50")
    assert (identify["userId"], identify["traits"], identify["timestamp"]) == ("42", {"plan": "pro"}, "2026-01-02T02:04:05Z")
    assert (group["groupId"], group["traits"], alias["previousId"], screen["anonymousId"]) == ("g1", {"size": 3}, "old", "a1")
    assert screen["name"] == "Home"
    assert "table" not in track["context"]["source"]
    assert track["context"]["source"]["op"] == "m"
    assert datetime.fromisoformat(track["timestamp"])
    assert [made.message_id for made in stream.made() if isinstance(made, Event)] == [event["messageId"] for event in events]
    assert len({event["messageId"] for event in events}) == 5


def test_a_message_that_holds_no_event_is_rejected_with_the_field(stream: Stream) -> None:
    contents = [
        ("[1]", "malformed", ""),
        ("no json", "malformed", ""),
        ('{"type": "nope", "userId": "1"}', "not_in_enum", "type"),
        ('{"type": "track", "userId": "1"}', "required_missing", "event"),
        ('{"type": "track", "event": 7, "userId": "1"}', "type_mismatch", "event"),
        ('{"type": "track", "event": "A"}', "identity_missing", "userId"),
        ('{"type": "track", "event": "A", "userId": 7}', "type_mismatch", "userId"),
        ('{"type": "track", "event": "A", "userId": "7", "properties": []}', "type_mismatch", "properties"),
        ('{"type": "track", "event": "A", "userId": "7", "context": 1}', "type_mismatch", "context"),
        ('{"type": "track", "event": "A", "userId": "7", "timestamp": "soon"}', "type_mismatch", "timestamp"),
        ('{"type": "track", "event": "A", "userId": "7", "messageId": ""}', "type_mismatch", "messageId"),
        ('{"type": "alias", "userId": "7"}', "required_missing", "previousId"),
        ('{"type": "group", "userId": "7"}', "required_missing", "groupId"),
    ]
    with closing(connect(stream.database.url)) as connection:
        for content, _, _ in contents:
            connection.execute("SELECT pg_logical_emit_message(true, 'cdc_tracker', %s)", [content])
    made = stream.made()
    assert [(found.reason, found.field) for found in made if isinstance(found, Rejection)] == [
        (why, field) for _, why, field in contents
    ]
    assert len({found.position for found in made}) == len(contents)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("track('  ', 'u1')", "needs the name"),
        ("track('A')", "user_id or anonymous_id"),
        ("track('A', 'u1', '[1]')", "properties must be a JSON object"),
        ("identify('u1', '3')", "traits must be a JSON object"),
        ("track('A', 'u1', context => '3')", "context must be a JSON object"),
        ("track('A', 'u1', message_id => repeat('x', 101))", "1 to 100"),
        ("track('A', 'u1', \"timestamp\" => 'infinity')", "finite"),
        ("track('A', 'u1', jsonb_build_object('x', repeat('x', 1000000)))", "at most 1000000"),
        ("\"group\"('', 'u1')", "group_id"),
        ("alias('', 'u1')", "previous_id"),
        ("emit('nothing')", "unknown type of event: nothing"),
        ("emit(NULL)", "unknown type of event: NULL"),
    ],
)
@pytest.mark.servers("pg15", "pg18")
def test_wrong_arguments_fail_in_the_database_where_the_caller_sees_them(database: Database, call: str, text: str) -> None:
    database.execute(scripts.script("functions"))
    with pytest.raises(psycopg.DatabaseError, match=f"cdc_tracker: .*{text}"):
        database.execute(f"SELECT cdc_tracker.{call}")


def test_an_application_role_needs_no_grant_for_the_functions_and_the_scripts_run_twice(database: Database) -> None:
    for script in (*scripts.outbox(OutboxSettings()), *scripts.outbox(OutboxSettings())):
        database.execute(script)
    database.execute("DO $$ BEGIN CREATE ROLE app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    with closing(psycopg.connect(database.url_as("app"), autocommit=True)) as connection:
        connection.execute("SELECT cdc_tracker.track('A', 'u1')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO cdc_tracker.outbox (event, user_id) VALUES ('A', 'u1')")
    for wrong in (
        "('track', NULL, 'u1')",
        "('track', 'A', NULL)",
        "('nope', 'A', 'u1')",
        "('group', NULL, 'u1')",
        "('alias', NULL, 'u1')",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            database.execute(f"INSERT INTO cdc_tracker.outbox (type, event, user_id) VALUES {wrong}")


def test_an_outbox_table_of_another_name_is_made_and_read(database: Database, plugin: str) -> None:
    stream = Stream(database, plugin, OutboxSettings(table="app.My Events"))
    database.execute("""INSERT INTO app."My Events" (event, user_id) VALUES ('A', 'u1')""")
    [event] = stream.events()
    assert (event["event"], event["context"]["source"]["table"]) == ("A", "My Events")


@pytest.mark.parametrize(("user", "expected"), [("aggregateid", "7"), ("payload.customer", "c-9"), ("tenant", "12")])
def test_debeziums_layout_is_read(database: Database, plugin: str, user: str, expected: str) -> None:
    database.execute(
        """CREATE TABLE events (id uuid PRIMARY KEY, aggregatetype varchar(255), aggregateid bigint, type text, payload jsonb,
        tenant int)"""
    )
    stream = Stream(database, plugin, OutboxSettings(table="public.events", layout="debezium", user_id=user))
    row = uuid.uuid4()
    database.execute(
        f"""INSERT INTO events VALUES ('{row}', 'order', 7, 'OrderPaid', '{{"customer": "c-9", "total": 1.10}}', 12);
        UPDATE events SET type = 'x'; DELETE FROM events"""
    )
    [made] = stream.made()
    assert isinstance(made, Event)
    event = made.decoded()
    assert (event["event"], event["userId"], str(event["properties"]["total"])) == ("OrderPaid", expected, "1.10")
    assert event["context"]["aggregate"] == {"type": "order", "id": "7"}
    assert made.message_id == str(uuid.uuid5(SPACE, f"outbox|{json.dumps([str(row)])}"))


def test_a_debezium_row_without_a_user_is_rejected(database: Database, plugin: str) -> None:
    database.execute("CREATE TABLE events (id int PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload text)")
    stream = Stream(database, plugin, OutboxSettings(table="public.events", layout="debezium", user_id="payload.user"))
    database.execute("""INSERT INTO events VALUES (1, 'o', 'x', 'A', '{"user": {"id": 1}}'), (2, 'o', 'x', 'A', 'no json')""")
    assert [(made.reason, made.field) for made in stream.made() if isinstance(made, Rejection)] == [
        ("type_mismatch", "userId"),
        ("identity_missing", "userId"),
    ]
    assert outbox.KEY == "outbox"
