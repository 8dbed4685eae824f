"""What should have been delivered, by SQL on the source, against what the destinations hold. Nothing is taken from the worker.

Both sides become multisets of `Fact`: the event's type and name, its user, and the properties by which the source tells it from
any other. More of one than expected is a duplicate, fewer is a loss, one that the source does not call for at all is unexpected.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg

_JSON = msgspec.json.Decoder(float_hook=Decimal)


class Fact(NamedTuple):
    type: str
    name: str
    user_id: str | None
    properties: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.properties)
        return f"{self.type} {self.name} of user {self.user_id or '?'} ({shown})"


def fact(type_: str, name: str, user_id: str | None, properties: dict[str, Any]) -> Fact:
    """NULL properties are left out: an event may say null or nothing."""
    known = sorted((key, _hashable(value)) for key, value in properties.items() if value is not None)
    return Fact(type_, name, user_id, tuple(known))


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, list | dict) else value


@dataclass(frozen=True)
class Expected:
    """Every fact that the source calls for, and which properties tell the events of each type and name apart."""

    facts: Counter[Fact]
    telling: dict[tuple[str, str], frozenset[str]]

    @property
    def total(self) -> int:
        return self.facts.total()


def expected(url: str) -> Expected:
    query = resources.files(__package__).joinpath("oracle.sql").read_bytes()
    with psycopg.connect(url) as connection:
        rows = connection.execute(b"SELECT type, name, user_id, properties::text FROM (" + query + b") AS event").fetchall()
    return expectation((type_, name, user_id, _JSON.decode(properties)) for type_, name, user_id, properties in rows)


def expectation(rows: Iterable[tuple[str, str, str | None, dict[str, Any]]]) -> Expected:
    facts: Counter[Fact] = Counter()
    telling: dict[tuple[str, str], frozenset[str]] = {}
    for type_, name, user_id, properties in rows:
        facts[fact(type_, name, user_id, properties)] += 1
        telling[type_, name] = telling.get((type_, name), frozenset()) | properties.keys()
    return Expected(facts, telling)


@dataclass
class Held:
    """What one destination holds. `repeats`: sent again under an id that it had, which it drops; `torn`: not the same bytes."""

    events: list[dict[str, Any]] = field(default_factory=list)
    repeats: int = 0
    torn: int = 0


def in_jsonl(files: Iterable[Path]) -> Held:
    """Every line counts."""
    return Held([_JSON.decode(line) for file in files for line in _lines(file)])


def at_vendor(file: Path) -> Held:
    """The first of each messageId counts, as at the vendor. `sentAt` belongs to the attempt, not to the event."""
    held = Held()
    first: dict[str, dict[str, Any]] = {}
    for line in _lines(file):
        event = _JSON.decode(line)
        event.pop("sentAt", None)
        known = first.setdefault(event["messageId"], event)
        if known is event:
            held.events.append(event)
        else:
            held.repeats += 1
            held.torn += known != event
    return held


def in_warehouse(file: Path) -> Held:
    """Every row of the table `tracks` counts, whatever its type."""
    if not file.exists():
        return Held()
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tracks'").fetchone():
            return Held()
        rows = connection.execute("SELECT type, event, user_id, anonymous_id, properties, traits FROM tracks").fetchall()
    return Held([_from_row(*row) for row in rows])


def _from_row(type_: str, name: str | None, user_id: str, anonymous_id: str, *said: str | None) -> dict[str, Any]:
    properties, traits = (_JSON.decode(text) if text else None for text in said)
    ids = {"userId": user_id, "anonymousId": anonymous_id}
    return {"type": type_, "event": name or "", **ids, "properties": properties, "traits": traits}


def _lines(file: Path) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError), file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # else it is being written
                yield line


@dataclass(frozen=True)
class Verdict:
    """`examples` shows the first few of what is wrong, in words."""

    destination: str
    expected: int
    delivered: int
    lost: int
    duplicated: int
    unexpected: int
    repeats: int
    torn: int
    examples: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected or self.torn)


def compare(destination: str, wanted: Expected, held: Held) -> Verdict:
    found: Counter[Fact] = Counter(_as_fact(event, wanted) for event in held.events)
    missing = wanted.facts - found
    extra = found - wanted.facts
    doubled = Counter({one: count for one, count in extra.items() if one in wanted.facts})
    unknown = Counter({one: count for one, count in extra.items() if one not in wanted.facts})
    wrong = (("lost", missing), ("doubled", doubled), ("not called for", unknown))
    examples = [f"{what}: {one}" for what, facts in wrong for one in list(facts)[:3]]
    return Verdict(
        destination=destination,
        expected=wanted.total,
        delivered=wanted.total - missing.total(),
        lost=missing.total(),
        duplicated=doubled.total(),
        unexpected=unknown.total(),
        repeats=held.repeats,
        torn=held.torn,
        examples=tuple(examples),
    )


def _as_fact(event: dict[str, Any], wanted: Expected) -> Fact:
    type_, name = event.get("type", ""), event.get("event", "")
    said = {**(event.get("traits" if type_ == "identify" else "properties") or {}), "anonymousId": event.get("anonymousId")}
    telling = wanted.telling.get((type_, name), frozenset())
    return fact(type_, name, event.get("userId"), {key: said.get(key) for key in telling})
