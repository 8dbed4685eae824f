"""Hostile values, in one place: what an application can put into a row, and a vendor's library may trip over.

Each case is one event in the Segment spec's shape, as a mapping or an outbox can make it. What a vendor cannot hold is to be
rejected, alone; whatever happens, the events around it arrive once, and the process goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from cdc_tracker.model import Event, Position

TEXTS: dict[str, str] = {
    "empty": "",
    "blank": "   ",
    "outer blanks": "  inner  ",
    "non-ascii": "bestellung-größe-1",
    "cyrillic": "заказ-7",
    "emoji": "🧾👩‍👩‍👧‍👦🇩🇪",
    "right to left": "\u202eאבג\u202c",
    "combining": "e\u0301" * 20,
    "full width": "ｓｔａｔｕｓ",
    "line feed": "a\nb",
    "carriage return": "a\r\nX-Injected: 1",
    "tab": "a\tb",
    "zero character": "a\x00b",
    "controls": "".join(map(chr, range(1, 32))),
    "delete and c1": "a\x7f\x80\x9fb",
    "line separator": "a\u2028b\u2029c",
    "byte order mark": "\ufeffa",
    "no character": "a\uffffb\U0010ffff",
    "lone quote": 'a"b',
    "lone apostrophe": "a'b",
    "backslashes": "a\\b\\\\",
    "semicolon": "a'; DROP TABLE tracks; --",
    "braces": "{event}{0}%s%(x)s$1${HOME}",
    "dots and wildcards": "a.b.*.>.#",
    "slashes": "../../etc/passwd",
    "only dots": "..",
    "vendor's words": "$insert_id",
    "null word": "null",
    "nan word": "NaN",
    "255 characters": "x" * 255,
    "256 non-ascii": "ä" * 256,
    "10,000 characters": "x" * 10_000,
    "1,000,000 characters": "ä" * 500_000,
}
NUMBERS: dict[str, str] = {  # as JSON has them
    "minus zero": "-0",
    "minus zero fraction": "-0.0",
    "2^53 + 1": str(2**53 + 1),
    "2^63": str(2**63),
    "-2^63 - 1": str(-(2**63) - 1),
    "2^64": str(2**64),
    "1e400": "1e400",
    "1e5000": "1e5000",
    "-1e5000": "-1e5000",
    "1e-5000": "1e-5000",
    "exponent of 20 digits": "1e99999999999999999999",
    "4,299 digits": "9" * 4_299,
    "4,400 digits": "1" + "0" * 4_400,
    "100,000 digits": "7" * 100_000,
    "fraction of 5,000 digits": "0." + "3" * 5_000,
    "exact fraction": "1234567890123456789.000000000000000001",
}
NAMES: dict[str, str] = {
    "empty": "",
    "blank": " ",
    "xmin": "xmin",
    "xmax": "xmax",
    "cmin": "cmin",
    "ctid": "ctid",
    "tableoid": "tableoid",
    "oid": "oid",
    "rowid": "rowid",
    "message_id": "message_id",
    "messageId": "messageId",
    "received_at": "received_at",
    "$insert_id": "$insert_id",
    "distinct_id": "distinct_id",
    "token": "token",
    "time": "time",
    "__proto__": "__proto__",
    "dots": "a.b..c.",
    "leading dollar": "$set",
    "quotes": "a\"b'c`d",
    "zero character": "a\x00b",
    "line feed": "a\nb",
    "select": "select",
    "digits": "123",
    "emoji": "🧾",
    "300 characters": "n" * 300,
    "300 non-ascii": "ä" * 300,
    "full width": "ｎａｍｅ",
    "dotless": "ı",
}
VALUES: dict[str, str] = {
    "objects 50 deep": '{"a":' * 50 + "1" + "}" * 50,
    "objects 500 deep": '{"a":' * 500 + "1" + "}" * 500,
    "objects 10,000 deep": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "lists 10,000 deep": "[" * 10_000 + "]" * 10_000,
    "10,000 properties": "{" + ",".join(f'"k{n}":{n}' for n in range(10_000)) + "}",
    "list of everything": '[null,true,false,0,-1,"",[],{},1e5000]',
    "twice the same key": '{"a":1,"a":2}',
    "empty object": "{}",
    "empty list": "[]",
}
EXTREMES: dict[str, str] = {
    "1e5000": "1e5000",
    "-0": "-0",
    "an integer of 5,000 digits": "9" * 5_000,
    "a fraction of 5,000 digits": "0." + "9" * 5_000,
    "-1E-99999999": "-1E-99999999",
    "such numbers deep inside": '{"a":{"b":{"c":{"d":{"n":' + "9" * 4_301 + "}}}}}",
    "such numbers very deep inside": '{"a":' * 45 + '{"n":1e5000}' + "}" * 45,
    "such a number among many": "{" + ",".join(f'"k{n}":1' for n in range(300)) + ',"n":' + "9" * 4_301 + "}",
    "a list of such": "[" + ",".join(["1e5000"] * 300) + "]",
    "700 lists deep": "[" * 700 + "]" * 700,
    "700 objects deep": '{"a":' * 700 + "1" + "}" * 700,
    "3,000 lists deep": "[" * 3_000 + "]" * 3_000,
    "3,000 objects deep": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "a key of 2,000 characters": '{"' + "k" * 2_000 + '":1}',
    "an empty key": '{"":1}',
    "half a surrogate pair as its text": '"\\\\ud800"',
    "text with all controls but zero": json.dumps("".join(map(chr, range(1, 32)))),
    "300,000 characters": '"' + "é" * 150_000 + '"',
}
"""Values that destinations are also sent one by one, between good events, with Python's usual limit of digits."""
IDS = ["order_17", "order:17", "a", " a", "a ", "a\tb", "a b", "a\nb", "a\r\nx-evil: 1", "a\x01b", "a\x7fb", "a.b", "0", "null"]
IDS += [
    "bestellung-größe-1",
    "commande-été-1",
    "заказ-7",
    "🎉",
    "注" * 100,
    "🎉" * 100,
    "x" * 100,
    "x" * 36 + "y",
    "x" * 64 + "y",
]
IDS += [
    "x" * 64 + "z",
    "a_b",
    "a/b",
    'a"b',
    "a\\b",
    "a\u2028b",
    "\u00a0a",
    "a\ufeff",
    "../../etc",
    "{event}",
    "%s",
    "*",
    ">",
    ".",
]
"""An application may choose any text of up to 100 characters. Some of these differ in what a protocol drops or cuts."""

EVENT_NAMES = [
    "!!!",
    ".",
    "..",
    "a.b",
    "*",
    ">",
    "a b > c",
    "a\nb",
    "\tx ",
    "a\x01b",
    "🎉" * 70,
    "Größe",
    "注文が支払われました" * 12,
]
EVENT_NAMES += ["x" * 300, "x " * 2_500, "x" * 20_000, "order/paid", "__", "-", "{event}", "%s", "İ", "con", "null", "0"]
"""Some of them leave nothing of a name, or are as long as no protocol takes it."""
TIMES = {
    "year 10000": "10000-01-01T00:00:00Z",
    "year 0001": "0001-01-01T00:00:00.000000Z",
    "before 1970": "1969-12-31T23:59:59.999999Z",
    "leap second": "2026-06-30T23:59:60Z",
    "no time": "yesterday",
    "empty": "",
    "infinity": "infinity",
}


@dataclass(frozen=True)
class Hostile:
    """`name` says what is hostile in which place; `event(n)` is the n-th change's."""

    name: str
    fields: tuple[tuple[str, str], ...]  # of the call: key → JSON
    message_id: str | None = None
    kind: str = "track"

    def event(self, n: int) -> Event:
        message_id = self.message_id if self.message_id is not None else f"00000000-0000-5000-9000-{n:012d}"
        fields = {**_usual(n, self.kind), "messageId": json.dumps(message_id), **dict(self.fields)}
        body = "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in fields.items()) + "}"
        position = Position(1_000 + n // 10 * 100, n % 10)
        return Event(message_id, self.kind, body.encode(), "order_paid", position, 1_700_000_000_000_000 + n)


def _usual(n: int, kind: str) -> dict[str, str]:
    part = "traits" if kind in ("identify", "group") else "properties"
    own = {"track": {"event": '"Order Paid"'}, "page": {"name": '"Home"'}, "group": {"groupId": '"g-1"'}}.get(kind, {})
    return {
        "type": json.dumps(kind),
        **own,
        "userId": f'"user-{n % 7}"',
        part: f'{{"order_id":{n}}}',
        "timestamp": '"2026-01-02T03:04:05.000006Z"',
    }


def cases() -> Iterator[Hostile]:
    """Every one. The large ones are few, so that a suite can run all of them for every destination."""
    for name, text in TEXTS.items():
        quoted = json.dumps(text, ensure_ascii=False)
        yield Hostile(f"text: {name}", (("properties", f'{{"order_id":1,"note":{quoted}}}'),))
        if len(text) <= 10_000:
            yield Hostile(f"event name: {name}", (("event", quoted),))
            yield Hostile(f"user id: {name}", (("userId", quoted),))
            yield Hostile(f"anonymous id: {name}", (("userId", "null"), ("anonymousId", quoted)))
            yield Hostile(f"group id: {name}", (("groupId", quoted),), kind="group")
            yield Hostile(f"page name: {name}", (("name", quoted),), kind="page")
            if text:
                yield Hostile(f"message id: {name}", (), message_id=f"id {name} {text}")
                yield Hostile(f"message id alone: {name}", (), message_id=text)
    for text in IDS:
        yield Hostile(f"message id: {text!r}", (), message_id=text)
    for text in EVENT_NAMES:
        yield Hostile(f"event name: {text[:40]!r}, {len(text)} long", (("event", json.dumps(text, ensure_ascii=False)),))
    for name, number in NUMBERS.items():
        yield Hostile(f"number: {name}", (("properties", f'{{"order_id":1,"n":{number},"revenue":{number}}}'),))
        yield Hostile(f"number in traits: {name}", (("traits", f'{{"n":{number}}}'),), kind="identify")
        yield Hostile(f"number in a list: {name}", (("properties", f'{{"order_id":1,"n":[{{"price":{number}}}]}}'),))
    for name, key in NAMES.items():
        quoted = json.dumps(key, ensure_ascii=False)
        yield Hostile(f"property: {name}", (("properties", f'{{"order_id":1,{quoted}:"x"}}'),))
        yield Hostile(f"property of a number: {name}", (("properties", f'{{"order_id":1,{quoted}:7}}'),))
        yield Hostile(f"trait: {name}", (("traits", f'{{{quoted}:"x"}}'),), kind="identify")
        yield Hostile(f"property within: {name}", (("properties", f'{{"order_id":1,"a":{{{quoted}:{{{quoted}:1}}}}}}'),))
    yield Hostile("properties: case variants", (("properties", '{"order_id":1,"Total":1,"total":2,"TOTAL":"3"}'),))
    yield Hostile("properties: look-alikes", (("properties", '{"order_id":1,"total":1,"tоtal":2,"ｔotal":3}'),))
    for name, value in (VALUES | EXTREMES).items():
        yield Hostile(f"value: {name}", (("properties", f'{{"order_id":1,"v":{value}}}'),))
        yield Hostile(f"traits: {name}", (("traits", f'{{"v":{value}}}'),), kind="identify")
        yield Hostile(f"context: {name}", (("context", f'{{"v":{value}}}'),))
    for name, time in TIMES.items():
        yield Hostile(f"timestamp: {name}", (("timestamp", json.dumps(time)),))
        yield Hostile(f"time as a property: {name}", (("properties", f'{{"order_id":1,"at":{json.dumps(time)}}}'),))
    yield Hostile("properties: a list", (("properties", "[1,2]"),))
    yield Hostile("properties: null", (("properties", "null"),))
    yield Hostile("properties: a number", (("properties", "7"),))
    yield Hostile("context: odd types", (("context", '{"ip":7,"userAgent":["x"],"page":{"url":9},"library":null}'),))
    yield Hostile("user id: a number", (("userId", "7"),))
    yield Hostile("event name: missing", (("event", "null"),))
    yield Hostile("no id of anybody", (("userId", "null"),))
