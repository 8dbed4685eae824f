"""What is special to MySQL, on a real MariaDB whose defaults are all other than ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc_tracker.delivery.sender import Backoff, send
from cdc_tracker.destinations.sql import SqlDestination, SqlSettings
from cdc_tracker.errors import DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import Batch, Event, Outcome, Position, Receipt
from tests.vendors.kit import Engines
from tests.vendors.mariadb import MariaDb

QUICK = Backoff(first=0.001, cap=0.004, blocked=0.005, longest=0.01)


class Place:
    def __init__(self, server: MariaDb, name: str, folder: Path) -> None:
        self.server, self.name, self.folder = server, name, folder
        self._opened: list[SqlDestination] = []

    def open(self, name: str = "warehouse", **settings: Any) -> SqlDestination:
        given = {"url": self.server.url(self.name)} | settings
        self._opened.append(SqlDestination(name, SqlSettings.model_validate(given), self.folder))
        return self._opened[-1]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.server.rows(query, self.name)

    def close(self) -> None:
        for one in self._opened:
            one.close()


@pytest.fixture
def place(engines: Engines, tmp_path: Path) -> Iterator[Place]:
    server: MariaDb = engines.get("mariadb")
    with server.fresh_database() as name:
        made = Place(server, name, tmp_path)
        yield made
        made.close()


def track(n: int, *, id: str = "", body: str = "", user: str = "3", **properties: Any) -> Event:
    fields = {"type": "track", "event": "Order Paid", "messageId": id or f"id-{n}", "userId": user, "properties": properties}
    text = body or json.dumps(fields, ensure_ascii=False)
    return Event(json.loads(text)["messageId"], "track", text.encode(), "m", Position(100, n), 0)


def batch(*events: Event) -> Batch:
    return Batch(events, events[-1].position)


def sent(destination: SqlDestination, *events: Event) -> list[Receipt]:
    return send(destination, batch(*events), stop=lambda: False, on_trouble=lambda error: None, backoff=QUICK)


def test_what_is_too_long_is_rejected_and_not_cut_off(place: Place) -> None:
    receipts = sent(place.open(), track(0), track(1, id="i" * 256), track(2, user="u" * 70_000), track(3, note="n" * 70_000))
    assert [receipt.outcome for receipt in receipts] == [
        Outcome.DELIVERED,
        Outcome.REJECTED,
        Outcome.REJECTED,
        Outcome.DELIVERED,
    ]
    assert "Data too long for column 'message_id'" in receipts[1].detail
    assert place.rows("SELECT message_id FROM tracks ORDER BY 1") == [("id-0",), ("id-3",)]


def test_a_repeat_on_another_unique_key_is_rejected_and_its_value_is_not_shown(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(track(0, user="someone")))
    place.rows("ALTER TABLE tracks ADD UNIQUE (user_id(100))")
    receipts = sent(destination, track(0, user="someone"), track(1, user="ann"), track(2, user="someone"), track(3, user="bob"))
    assert [receipt.outcome for receipt in receipts] == [
        Outcome.DELIVERED,
        Outcome.DELIVERED,
        Outcome.REJECTED,
        Outcome.DELIVERED,
    ]
    assert receipts[2].detail
    assert "someone" not in receipts[2].detail
    assert place.rows("SELECT message_id, user_id FROM tracks ORDER BY 1") == [
        ("id-0", "someone"),
        ("id-1", "ann"),
        ("id-3", "bob"),
    ]


def test_ids_that_differ_in_case_accent_or_trailing_space_are_different(place: Place) -> None:
    ids = ["a", "A", "a ", "á", "a\0", "😀", "😁"]
    place.open().deliver(batch(*[track(n, id=one) for n, one in enumerate(ids)]))
    assert sorted(row[0] for row in place.rows("SELECT message_id FROM tracks")) == sorted(ids)


def test_deep_nesting_and_numbers_of_any_size_arrive_as_they_are(place: Place) -> None:
    properties = '{"deep":' + "[" * 400 + "]" * 400 + ',"n":1E-30,"big":123456789012345678901234567890.0000000000000000010}'
    place.open().deliver(batch(track(0, body='{"type":"track","messageId":"a","properties":' + properties + "}")))
    assert place.rows("SELECT properties FROM tracks") == [(properties,)]


def test_times_are_in_utc_to_the_microsecond_whatever_the_servers_zone(place: Place) -> None:
    times = ["2026-01-02T03:04:05.000006Z", "2026-01-02T03:04:05.5+05:30", "2026-01-02T03:04:05", "2099-01-02T03:04:05Z"]
    body = '{"type":"track","messageId":"%d","timestamp":"%s"}'
    place.open().deliver(batch(*[track(n, body=body % (n, time)) for n, time in enumerate(times)]))
    found = [str(row[0]) for row in place.rows("SELECT timestamp FROM tracks ORDER BY message_id")]
    assert found == ["2026-01-02 03:04:05.000006", "2026-01-01 21:34:05.500000", "2026-01-02 03:04:05", "2099-01-02 03:04:05"]
    [[offset]] = place.rows("SELECT ABS(TIMESTAMPDIFF(SECOND, MAX(received_at), UTC_TIMESTAMP())) FROM tracks")
    assert offset < 600
    assert [receipt.reason for receipt in sent(place.open("b"), track(0, body=body % (7, "2026-02-31T00:00:00Z")))] == ["refused"]
    assert [receipt.reason for receipt in sent(place.open("c"), track(0, body=body % (7, "yesterday")))] == ["refused"]


def test_a_number_that_its_column_would_round_is_null_there(place: Place) -> None:
    numbers = ["1" + "0" * 34, "1" + "0" * 35, "1E-30", "1E-31", "0.10", "1E+20", "1.5E-30"]
    body = '{"type":"track","event":"N","messageId":"%d","properties":{"n":%s}}'
    place.open(table_per_event=True).deliver(batch(*[track(n, body=body % (n, number)) for n, number in enumerate(numbers)]))
    rows = [row[0] for row in place.rows("SELECT n FROM n ORDER BY message_id")]
    assert [row if row is None else f"{row.normalize()}" for row in rows] == ["1E+34", None, "1E-30", None, "0.1", "1E+20", None]


def test_names_of_columns_that_are_the_same_to_it_share_one(place: Place) -> None:
    destination = place.open(table_per_event=True)
    first: dict[str, Any] = {"größe": 1, "grosse": 2, "gros\u0131": 3, "𝒜𝒷": 4, "x𝒜": 5}
    destination.deliver(batch(track(0, **first), track(1, grosi=6, GRÖßE=7, e=8, é=9)))
    assert place.rows('SELECT "größe", grosse, grosi, x, e, "é" FROM order_paid ORDER BY message_id') == [
        (1, 2, 3, 5, None, None),
        (7, None, 6, None, 8, 9),
    ]


def test_a_table_takes_as_many_long_texts_as_it_has_columns(place: Place) -> None:
    place.open(table_per_event=True).deliver(batch(track(0, **{f"p{n}": f"{n} " + "x" * 1_000 for n in range(300)})))
    [row] = place.rows("SELECT * FROM order_paid")
    assert len(row) == 180
    assert row.count(None) == 4  # anonymous_id, group_id, previous_id, timestamp


def test_an_event_above_what_the_server_takes_is_rejected_alone(place: Place) -> None:
    [[before]] = place.rows("SELECT @@global.max_allowed_packet")
    place.rows("SET GLOBAL max_allowed_packet = 1048576")
    try:
        destination = place.open()
        receipts = sent(
            destination, track(0, note="x" * 900_000), track(1, note='"' * 600_000), track(2, note="é" * 600_000), track(3)
        )
        assert [receipt.reason for receipt in receipts] == ["", "too_large", "too_large", ""]
        assert place.rows("SELECT message_id FROM tracks ORDER BY 1") == [("id-0",), ("id-3",)]
    finally:
        place.rows(f"SET GLOBAL max_allowed_packet = {before}")


def test_a_refused_batch_leaves_no_row_although_its_tables_were_made(place: Place) -> None:
    destination = place.open(table_per_event=True)
    destination.deliver(batch(track(0)))
    place.rows("ALTER TABLE tracks ADD CHECK (message_id <> 'id-2')")
    assert [receipt.reason for receipt in sent(destination, track(2, new=1))] == ["refused"]
    assert place.rows("SELECT message_id, new FROM order_paid") == [("id-0", None)]
    assert destination.position() == Position(100, 0)


def test_destinations_that_start_together_make_their_tables_once(place: Place) -> None:
    destinations = [place.open(f"d{n}", table_per_event=True) for n in range(6)]
    failures: list[Exception] = []

    def begin(destination: SqlDestination, n: int) -> None:
        try:
            added: dict[str, Any] = {f"b{n}": 2}
            sent(destination, track(n, a=1, **added))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=begin, args=(one, n), daemon=True) for n, one in enumerate(destinations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert place.rows("SELECT count(*), count(b0), count(b5) FROM order_paid") == [(6, 1, 1)]


def test_without_privileges_it_is_blocked_with_a_hint_until_they_are_granted(place: Place) -> None:
    user = f"w_{place.name}"
    place.rows(f"CREATE USER {user}@'%' IDENTIFIED BY 's3same'")
    try:
        destination = place.open(url=place.server.url(place.name, user, "s3same"))
        with pytest.raises(DestinationBlocked, match="Access denied") as caught:
            destination.probe()
        assert "s3same" not in str(caught.value)
        place.rows(f"GRANT SELECT ON {place.name}.* TO {user}@'%'")
        with pytest.raises(DestinationBlocked, match="not allowed to create tracks, create cdc_tracker_checkpoints"):
            destination.probe()
        with pytest.raises(DestinationBlocked, match="command denied") as caught:
            destination.deliver(batch(track(0)))
        assert "CREATE, ALTER" in caught.value.hint
        place.open("other").deliver(batch(track(1)))
        with pytest.raises(DestinationBlocked, match="SELECT, INSERT and UPDATE in tracks"):
            destination.probe()
        place.rows(f"GRANT INSERT, UPDATE ON {place.name}.* TO {user}@'%'")
        destination.probe()
        destination.deliver(batch(track(0)))
        assert len(place.rows("SELECT * FROM tracks")) == 2
        place.rows(f"GRANT CREATE ON {place.name}.* TO {user}@'%'")
        place.open("third", url=place.server.url(place.name, user, "s3same"), table="more").probe()
        assert place.rows("SHOW TABLES LIKE 'more'") == []
    finally:
        place.rows(f"DROP USER {user}@'%'")


def test_failures_of_the_connection_are_passing_or_blocked_and_show_no_password(place: Place) -> None:
    cases = [
        (place.server.url(place.name, "nobody", "s3same", port=place.server.port), DestinationBlocked),
        (place.server.url("none", "root", port=place.server.port), DestinationBlocked),
        (place.server.url(place.name, "root", "s3same", port=1), DestinationUnavailable),
    ]
    for url, error in cases:
        destination = place.open(url=url)
        for call in (destination.probe, destination.position, lambda it=destination: it.deliver(batch(track(0)))):
            with pytest.raises(error) as caught:
                call()
            assert type(caught.value) is error
            assert "s3same" not in str(caught.value) + repr(caught.value.__cause__)


def test_it_goes_on_after_the_server_ended_its_connection(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(track(0)))
    for [session] in place.rows(f"SELECT id FROM information_schema.processlist WHERE db = '{place.name}' AND command = 'Sleep'"):
        place.rows(f"KILL {session}")
    assert [receipt.outcome for receipt in sent(destination, track(1))] == [Outcome.DELIVERED]
    assert destination.position() == Position(100, 1)


def test_a_server_that_does_not_answer_is_a_passing_fault(place: Place) -> None:
    destination = place.open()
    destination.deliver(batch(track(0)))
    with closing(place.server.connect(place.name)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES tracks READ, cdc_tracker_checkpoints READ")
        blocked = place.open("b", url=place.server.url(place.name) + "&read_timeout=1")
        with pytest.raises(DestinationUnavailable):
            blocked.deliver(batch(track(1)))
    assert [receipt.outcome for receipt in sent(blocked, track(1))] == [Outcome.DELIVERED]
