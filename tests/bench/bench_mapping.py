"""Microseconds an event for a mapping with `when` and eight checked properties; `--profile` says where they go."""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from cdc_tracker.mapping import Plan, compile_plan, load
from cdc_tracker.model import Change, Column, Event, Op, Position, Relation, Transaction
from cdc_tracker.sources.postgres.values import codec

MAPPING = """
version: 1
defaults:
  context: {channel: {const: server}}
events:
  - name: Order Paid
    table: shop.orders
    on: [insert, update]
    when: new.status == 'paid' and old.status != 'paid'
    user_id: new.user_id
    properties:
      order_id: {value: new.id, type: integer, required: true}
      revenue: {value: new.amount, type: number, required: true, minimum: 0}
      currency: {value: new.currency, type: string, enum: [EUR, USD, GBP]}
      quantity: {value: new.quantity, type: integer, minimum: 1}
      coupon: {value: new.coupon, type: string}
      gift: {value: new.gift, type: boolean}
      paid_at: {value: new.paid_at, type: timestamp}
      status: {value: new.status, type: string}
"""
COLUMNS = [
    ("id", 20),
    ("user_id", 20),
    ("status", 25),
    ("amount", 1700),
    ("currency", 25),
    ("quantity", 23),
    ("coupon", 25),
    ("gift", 16),
    ("paid_at", 1184),
    ("note", 25),
]
RELATION = Relation("shop", "orders", tuple(Column(name, oid, name == "id") for name, oid in COLUMNS), "f")
ROW = {
    "id": "123456",
    "user_id": "4711",
    "status": "paid",
    "amount": "129.90",
    "currency": "EUR",
    "quantity": "3",
    "coupon": None,
    "gift": "f",
    "paid_at": "2026-01-05 10:11:12.123456+00",
    "note": "please ring twice",
}


def plan(text: str = MAPPING) -> Plan:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shop.yml"
        path.write_text(text)
        made = compile_plan(load([path]), RELATION, codec, space=uuid.UUID(int=7), database="shop", destination=None)
    assert made is not None and not made.problems
    return made


def changes(made: Plan, op: Op, count: int) -> list[Change]:
    transaction = Transaction(700, 1 << 33, 1_767_607_872_123_456)
    new = tuple(ROW[name] for name in made.new_columns)
    old = tuple({**ROW, "status": "pending"}[name] for name in made.old_columns) if op is Op.UPDATE else None
    return [
        Change(op.value, RELATION, new, old, Position(1 << 33, number), (1 << 33) + number * 100, 0, transaction)
        for number in range(count)
    ]


def microseconds(made: Plan, op: Op, count: int = 50_000, rounds: int = 5) -> float:
    function, work = made.by_op[op.value][0], changes(made, op, count)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for change in work:
            function(change)
        best = min(best, time.perf_counter() - start)
    return best / count * 1e6


def main() -> None:
    made = plan()
    first = made.by_op["u"][0](changes(made, Op.UPDATE, 1)[0])
    assert isinstance(first, Event), first
    print(first.body.decode())
    for op in (Op.INSERT, Op.UPDATE):
        print(f"{op.name.lower()}: {microseconds(made, op):.2f} µs an event")
    unmatched = changes(made, Op.INSERT, 50_000)
    function = plan(MAPPING.replace("'paid' and", "'refunded' and")).by_op["c"][0]
    start = time.perf_counter()
    for change in unmatched:
        function(change)
    print(f"not matching: {(time.perf_counter() - start) / len(unmatched) * 1e6:.2f} µs")
    if "--profile" in sys.argv:
        import cProfile

        work = changes(made, Op.UPDATE, 100_000)
        function = made.by_op["u"][0]
        cProfile.runctx("for change in work: function(change)", {"work": work, "function": function}, {}, sort="tottime")


if __name__ == "__main__":
    main()
