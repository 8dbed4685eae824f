"""Where expressions promise PostgreSQL's own answer, a server is asked: times of clocks in zones, and what char(n) equals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cdc_tracker.mapping.compiler.timestamp import in_zone
from cdc_tracker.mapping.language.moments import clock
from cdc_tracker.mapping.language.zones import names, zone
from cdc_tracker.sources.postgres.values import codec
from tests.postgres import Database
from tests.unit.mapping.shop import change, one, plan, relation

ODD = {"Europe/Dublin", "Africa/Casablanca", "Australia/Lord_Howe", "America/Caracas", "Asia/Pyongyang", "Pacific/Apia"}
"""Negative summer time, half an hour of it, moves of the standard time, a day left out."""
LAST = 2024  # governments change their minds: servers' rules for later years may be older than ours
SECOND = timedelta(seconds=1)


def moves(name: str, first: int, last: int) -> Iterator[tuple[datetime, timedelta, timedelta]]:
    """Each move of the zone's clocks in these years: when, in UTC, and the offsets before and after."""
    found, at = zone(name), datetime(first, 1, 1, tzinfo=UTC)
    assert found is not None

    def offset(moment: datetime) -> timedelta:
        there = moment.astimezone(found).utcoffset()
        assert there is not None
        return there

    while at.year < last:
        later = at + timedelta(days=7)
        if offset(at) != offset(later):
            low, high = at, later
            while high - low > SECOND:
                middle = low + (high - low) // 2
                low, high = (middle, high) if offset(middle) == offset(at) else (low, middle)
            moved = high.replace(microsecond=0)
            yield moved, offset(at), offset(later)
        at = later


def clocks(chance: random.Random, name: str) -> set[datetime]:
    """What clocks of the zone show around some of its moves, and at any time."""
    found = [*moves(name, 1980, LAST)]
    shown = {datetime(1971, 1, 1) + timedelta(seconds=chance.randrange((LAST - 1971) * 365 * 86400)) for _ in range(10)}
    for moved, before, after in chance.sample(found, min(len(found), 6)):
        edges = [moved.replace(tzinfo=None) + offset for offset in (before, after)]
        shown |= {edge + step for edge in edges for step in (-SECOND, timedelta(0), SECOND)}
        shown |= {
            min(edges) + timedelta(seconds=chance.randrange(int(abs(after - before).total_seconds()) or 1)) for _ in range(4)
        }
    return shown


def test_a_clock_is_read_as_at_time_zone_does(database: Database) -> None:
    chance = random.Random(7)
    with database.connect() as connection:
        # AT TIME ZONE takes CET, MET and their kind for abbreviations, without summer time
        known = {name for (name,) in connection.execute("SELECT name FROM pg_timezone_names WHERE name LIKE '%/%'")}
        chosen = sorted({*chance.sample(sorted(known & set(names())), 60), *(ODD & known), "Europe/Berlin", "America/New_York"})
        asked = [(name, f"{shown:%Y-%m-%d %H:%M:%S}") for name in chosen for shown in sorted(clocks(chance, name))]
        read = [in_zone(codec(1114), name).load(shown) for name, shown in asked]
        connection.execute("SET timezone = 'UTC'")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT (shown::timestamp AT TIME ZONE zone)::text, "
                "  to_char(shown::timestamptz AT TIME ZONE zone, 'YYYY-MM-DD HH24 ID'), "
                "  to_char(read::timestamptz AT TIME ZONE zone, 'YYYY-MM-DD HH24 ID') "
                "FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS t(zone, shown, read, n) ORDER BY n",
                [[name for name, _ in asked], [shown for _, shown in asked], [f"{each}" for each in read]],
            )
            answers = cursor.fetchall()
    assert len(asked) > 2_000
    unlike: set[str] = set()  # zones of which the server's rules are older or newer than ours
    wrong = []
    for (name, shown), ours, (theirs, there, again) in zip(asked, read, answers, strict=True):
        calendars = [clock("date", moment, name) for moment in (shown, ours)]
        if [f"{at:%Y-%m-%d %H} {at.isoweekday()}" for at in calendars if at] != [there, again]:
            unlike.add(name)
        elif ours != datetime.fromisoformat(theirs):
            wrong.append((name, shown, ours, theirs))
    assert [each for each in wrong if each[0] not in unlike] == []
    assert len(unlike) <= len(chosen) // 10


TEXTS = ["", " ", "a", "a ", "a  ", " a", "A", "ab", "abc", "abc  ", "a\t", "a\u00a0", "ä", "ä "]


def test_a_char_n_equals_what_it_equals_there(database: Database) -> None:
    """With constants, with itself, and with a text column, of which every blank counts."""
    database.execute("CREATE TABLE t (code char(5), other char(3), note text)")
    with database.connect() as connection:
        for code in (None, *TEXTS[:9]):
            for note in (None, *TEXTS):
                connection.execute("INSERT INTO t VALUES (%s, left(%s, 3), %s)", [code, code, note])
        conditions = {f"new.code == '{text}'": f"code = '{text}'" for text in TEXTS}
        conditions |= {f"new.code in ('x', '{text}')": f"code IN ('x', '{text}')" for text in TEXTS}
        conditions |= {
            "new.code == new.other": "code IS NOT DISTINCT FROM other",
            "new.code == new.note": "code IS NOT DISTINCT FROM note",
            "new.note == new.code": "note IS NOT DISTINCT FROM code",
        }
        conditions |= {
            "new.code == concat(new.note)": "code = coalesce(note, '')",
            "'a' == new.code == new.other": "code = 'a' AND code = other",
        }
        conditions |= {f"entered(new.code, '{text}', 'x')": f"code IN ('{text}', 'x')" for text in TEXTS}
        selected = ", ".join(f"coalesce({there}, false)" for there in conditions.values())
        rows = connection.execute(
            f"SELECT code::text || repeat(' ', 5 - length(code)), other || '', note, code, other, {selected} FROM t"
        ).fetchall()
    table = relation(columns={"code": "char", "other": "char", "note": "text"})
    made = plan(one(user_id="'u'", properties={f"p{n}": here for n, here in enumerate(conditions)}), table)
    wrong: list[Any] = []
    for _, _, note, code, other, *answers in rows:
        found = made.by_op["c"][0](change(made, new={"code": code, "other": other, "note": note}))
        assert found is not None
        for here, got, there in zip(conditions, found.decoded()["properties"].values(), answers, strict=True):  # type: ignore[union-attr]
            if got is not there:
                wrong.append((here, code, other, note, got, there))
    assert wrong == []
    assert any(code and code.endswith(" ") for _, _, _, code, *_ in rows)


@pytest.mark.parametrize("text", ["a", "a    "])
def test_a_char_n_is_sent_as_it_is_stored(text: str) -> None:
    table = relation(columns={"user_id": "int8", "code": "char"})
    made = plan(one(when=f"new.code == '{text}' and not changed(new.code, 'a ')", properties={"x": "new.code"}), table)
    found = made.by_op["c"][0](change(made, new={"user_id": "1", "code": "a    "}))
    assert found is not None and found.decoded()["properties"] == {"x": "a    "}  # type: ignore[union-attr]
