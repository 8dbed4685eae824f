"""The whole way of a change, outbox row and message, through every plugin on every server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.crash.scene import JSONL
from tests.postgres import Database
from tests.worker import Worker, until

SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int PRIMARY KEY, user_id int, status text, amount numeric, note text);
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
"""
MAPPING = """
version: 1
events:
  - name: Order Created
    table: shop.orders
    on: [insert]
    user_id: new.user_id
    properties: {order_id: new.id, revenue: {value: new.amount, type: number}}
  - name: Order Paid
    table: shop.orders
    on: [insert, update]
    when: new.status == 'paid' and old.status != 'paid'
    user_id: new.user_id
    properties: {order_id: new.id, revenue: {value: new.amount, type: number, minimum: 0}, note: new.note}
  - name: Order Deleted
    table: shop.orders
    on: [delete]
    user_id: old.user_id
    properties: {order_id: old.id, was: old.status}
"""
WORK = (  # one transaction each
    """
    INSERT INTO shop.orders SELECT g, 70 + g, 'pending', g + 0.10, repeat(md5(g::text), 300) FROM generate_series(1, 3) g;
    UPDATE shop.orders SET status = 'paid' WHERE id < 3;
    """,
    """
    INSERT INTO cdc_tracker.outbox (event, user_id, properties) VALUES ('Boxed', '5', '{"price": 12345678901234567.123456789}');
    DELETE FROM cdc_tracker.outbox;
    """,
    """SELECT cdc_tracker.track('Tracked', '6', '{"k": 1}')""",
    "BEGIN; SELECT cdc_tracker.track('Never', '6', '{}'); INSERT INTO shop.orders VALUES (9, 9, 'paid', 9, ''); ROLLBACK",
    "UPDATE shop.orders SET status = 'refunded' WHERE id = 1",
    "DELETE FROM shop.orders WHERE id = 2",
    """SELECT cdc_tracker.identify('7', '{"plan": "pro"}', anonymous_id => 'a7')""",
)
EXPECTED = [
    *(("track", "Order Created", str(70 + n), {"order_id": n}) for n in (1, 2, 3)),
    *(("track", "Order Paid", str(70 + n), {"order_id": n}) for n in (1, 2)),
    ("track", "Boxed", "5", {}),
    ("track", "Tracked", "6", {"k": 1}),
    ("track", "Order Deleted", "72", {"order_id": 2, "was": "paid"}),
    ("identify", None, "7", {"plan": "pro"}),
]


def test_changes_outbox_rows_and_messages_become_their_events(database: Database, plugin: str, tmp_path: Path) -> None:
    database.execute(SCHEMA)
    slot = f"s_{database.name}"
    worker = Worker(
        tmp_path,
        url=database.url,
        mapping=MAPPING,
        destinations={"events": JSONL},
        plugin=plugin,
        slot=slot,
        source={"outbox": {}},
    )
    worker.call("setup", "--yes")
    with worker.running():
        for transaction in WORK:
            database.execute(transaction)
        until(lambda: len(worker.lines()) >= len(EXPECTED), "every event")
    events = worker.events()
    assert [_short(event, expected) for event, expected in zip(events, EXPECTED, strict=True)] == EXPECTED
    assert len({event["messageId"] for event in events}) == len(EXPECTED)
    lines = worker.lines()
    assert b'"revenue":1.10' in lines[0] and b"12345678901234567.123456789" in lines[5]  # exact, to the last digit
    assert len(events[3]["properties"]["note"]) == 9600  # an unchanged TOAST value, filled from the old row


def _short(event: dict[str, Any], expected: tuple[Any, ...]) -> tuple[Any, ...]:
    body = event.get("properties", event.get("traits", {}))
    return event["type"], event.get("event"), event.get("userId"), {key: body[key] for key in expected[3]}
