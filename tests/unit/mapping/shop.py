"""A table, its rows, and mappings over them as the tests of this folder write them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping as Dict
from decimal import Decimal
from pathlib import Path
from typing import Any

from cdc_tracker.config.yaml_file import parse
from cdc_tracker.errors import MappingError, Problem
from cdc_tracker.mapping import Mappings, Plan, compile_plan
from cdc_tracker.mapping.schema.files import read
from cdc_tracker.model import Change, Column, Event, Position, Rejection, Relation, Text, Transaction
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.tables import Table, TableColumn

OIDS = {
    "bool": 16,
    "bytea": 17,
    "int8": 20,
    "int4": 23,
    "text": 25,
    "json": 114,
    "float8": 701,
    "text[]": 1009,
    "char": 1042,
    "date": 1082,
    "timestamp": 1114,
    "timestamptz": 1184,
    "timestamp[]": 1115,
    "timestamptz[]": 1185,
    "numeric": 1700,
    "uuid": 2950,
    "jsonb": 3802,
}
COLUMNS = {
    "id": "int8",
    "user_id": "int8",
    "status": "text",
    "email": "text",
    "amount": "numeric",
    "qty": "int4",
    "gift": "bool",
    "ratio": "float8",
    "paid_at": "timestamptz",
    "local_at": "timestamp",
    "day": "date",
    "items": "jsonb",
    "tags": "text[]",
    "moments": "timestamptz[]",
    "token": "uuid",
    "raw": "bytea",
    'Odd "name"': "text",
}
ROW: dict[str, Text] = {
    "id": "7",
    "user_id": "3",
    "status": "paid",
    "email": " Ann@Example.com ",
    "amount": "9.50",
    "qty": "2",
    "gift": "t",
    "ratio": "0.1",
    "paid_at": "2026-01-05 10:00:00+00",
    "local_at": "2026-01-05 10:00:00.5",
    "day": "2026-01-05",
    "items": '[{"sku": "A", "qty": 2}, {"sku": "B", "qty": 1.5}]',
    "tags": "{x,y}",
    "moments": '{"2026-01-05 10:00:00+00"}',
    "token": "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
    "raw": "\\x6162",
    'Odd "name"': "odd",
}
SPACE = uuid.UUID("11111111-2222-5333-8444-555555555555")
TRANSACTION = Transaction(42, 0x16_B374D848, 1_767_607_200_123_456)  # 2026-01-05T10:00:00.123456Z
PATH = Path("shop.yml")


def relation(identity: str = "f", columns: Dict[str, str] = COLUMNS) -> Relation:
    return Relation("shop", "orders", tuple(Column(name, OIDS[kind], name == "id") for name, kind in columns.items()), identity)


def catalogued(of: Relation, **facts: Dict[str, Any]) -> Table:
    """The table as the catalog describes it. `facts`: column → what its TableColumn says besides."""
    columns = tuple(
        TableColumn(
            **{
                "name": column.name,
                "type_oid": column.type_oid,
                "type_name": "",
                "not_null": column.name in {"id", "user_id"},
                "key": column.key,
                "primary_key": column.key,
                "base_oid": column.type_oid,
                "base_name": "",
                **facts.get(column.name, {}),
            }
        )
        for column in of.columns
    )
    return Table(
        oid=1,
        schema=of.schema,
        name=of.name,
        kind="r",
        persistence="p",
        publishable=True,
        identity=of.identity,
        has_key=True,
        has_primary_key=True,
        has_children=False,
        rows=-1,
        can_select=True,
        owned=True,
        root=(of.schema, of.name),
        columns=columns,
    )


def mappings(text: str) -> Mappings:
    """The mappings of a file's text. Raises MappingError."""
    problems: list[Problem] = []
    found = read(parse(text, PATH), problems)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise MappingError(errors)
    return Mappings(tuple(found), tuple(problems))


def one(**event: Any) -> str:
    """A file with one event; what is not given is enough to hold. The text is JSON, which is YAML."""
    shape = {"name": "Order Paid", "table": "shop.orders", "user_id": "new.user_id", **event}
    return json.dumps({"version": 1, "events": [{key: value for key, value in shape.items() if value is not None}]})


def plan(text: str, table: Relation | None = None, destination: str | None = None) -> Plan:
    made = compile_plan(mappings(text), table or relation(), codec, space=SPACE, database="shopdb", destination=destination)
    assert made is not None
    return made


def change(
    made: Plan, op: str = "c", new: Dict[str, Text] | None = None, old: Dict[str, Text] | None = None, **place: int
) -> Change:
    """A change with the columns that the plan wants. What `new` and `old` do not say is as in ROW."""
    after, before = {**ROW, **(new or {})}, {**ROW, **(old or {})}
    return Change(
        op,
        relation(),
        None if op == "d" else tuple(after.get(name) for name in made.new_columns),
        None if op in "cr" else tuple(before.get(name) for name in made.old_columns),
        Position(TRANSACTION.commit_lsn, 5),
        place.get("lsn", 0x16_B374D000),
        place.get("index", 0),
        TRANSACTION,
    )


def outcome(
    text: str, op: str = "c", new: Dict[str, Text] | None = None, old: Dict[str, Text] | None = None, identity: str = "f"
) -> Event | Rejection | None:
    """What the one mapping of the text makes of a change."""
    made = plan(text, relation(identity))
    return made.by_op[op][0](change(made, op, new, old))


def event(text: str, op: str = "c", new: Dict[str, Text] | None = None, old: Dict[str, Text] | None = None) -> dict[str, Any]:
    made = outcome(text, op, new, old)
    assert isinstance(made, Event), made
    return made.decoded()


def rejection(
    text: str, op: str = "c", new: Dict[str, Text] | None = None, old: Dict[str, Text] | None = None, identity: str = "f"
) -> Rejection:
    made = outcome(text, op, new, old, identity)
    assert isinstance(made, Rejection), made
    return made


def computed(expression: str, new: Dict[str, Text] | None = None, op: str = "c", old: Dict[str, Text] | None = None) -> Any:
    """The value of an expression, as it comes out of the event's JSON. A rejection comes as its detail."""
    made = outcome(one(on=["insert", "update", "delete"], user_id="'u'", properties={"x": {"value": expression}}), op, new, old)
    if isinstance(made, Rejection):
        return f"{made.reason}: {made.detail}"
    assert made is not None
    return made.decoded()["properties"]["x"]


def problems(text: str) -> list[str]:
    try:
        mappings(text)
    except MappingError as error:
        return [str(problem) for problem in error.problems]
    return []


D = Decimal


def prop(value: object, **rules: object) -> str:
    """A mapping with one property x."""
    return one(user_id="'u'", on=["insert", "update", "delete"], properties={"x": {"value": value, **rules} if rules else value})


def x_of(text: str, new: dict[str, Text] | None = None, **more: Any) -> Any:
    return event(text, new=new, **more)["properties"]["x"]
