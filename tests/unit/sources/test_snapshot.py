"""Rows of COPY's text format, a person's conditions, and how much is read at once."""

from __future__ import annotations

import contextlib
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_tracker.errors import SourceError
from cdc_tracker.journal import decode as unpack
from cdc_tracker.journal import encode as pack
from cdc_tracker.model import START, Change, Column, Position, Relation, Row, Segment
from cdc_tracker.sources.postgres import snapshot
from cdc_tracker.sources.postgres.snapshot.conditions import texts
from cdc_tracker.sources.postgres.snapshot.pace import Pace
from cdc_tracker.sources.postgres.snapshot.rows import Description, cells, segment_of
from tests.unit.sources.damage import damaged, every_column

RELATION = Relation("shop", "orders", (Column("id", 23, True), Column("note", 25, False), Column("a b", 25, False)), "d")
DESCRIBED = msgspec.json.encode(Description.of(RELATION))
LOW, AT = 0x16_0000_0100, 1_790_000_000_000_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    ["\\N", "\\", "\\\\N", "\\n", "\n", "\t", "\r\b\f\v", "\\.", "", "\u2028", "ä\\x41"]
)
_WRITTEN = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}


def line(row: Row) -> bytes:
    """As the server's COPY writes it."""
    written = ("\\N" if cell is None else "".join(_WRITTEN.get(letter, letter) for letter in str(cell)) for cell in row)
    return "\t".join(written).encode()


def segment(*found: Row) -> Segment:
    return segment_of([line(row) for row in found], DESCRIBED, LOW, AT)


def changes(found: Segment, after: Position = START) -> list[Change]:
    return list(snapshot.Decoder(every_column).changes(found, after))


@given(st.lists(st.tuples(*[st.none() | TEXTS] * 3), min_size=1, max_size=4))
def test_every_text_comes_back_as_it_was(written: list[Row]) -> None:
    found = unpack(pack(segment(*written)))
    assert [change.new for change in changes(found)] == written
    assert [cells(line(row)) for row in written] == [list(row) for row in written]


def test_a_row_has_the_place_and_time_of_its_reading() -> None:
    first, second = changes(segment(("1", "a", None), ("2", None, "b")))
    assert first.relation == RELATION and first.relation is second.relation
    assert (second.op, second.new, second.old) == ("r", ("2", None, "b"), None)
    assert [(one.position, one.lsn, one.index) for one in (first, second)] == [
        (Position(LOW, 0), LOW, 0),
        (Position(LOW, 1), LOW, 1),
    ]
    assert (second.transaction.xid, second.transaction.commit_lsn, second.transaction.committed_at) == (0, LOW, AT)


def test_only_the_columns_wanted_are_given_in_the_order_wanted() -> None:
    decoder = snapshot.Decoder(lambda relation: (("a b", "none", "id"), ("note",)))
    [change] = decoder.changes(segment(("1", "x", "y\n")), START)
    assert change.new == ("y\n", None, "1")
    assert list(snapshot.Decoder(lambda relation: None).changes(segment(("1", "x", "y")), START)) == []


def test_a_relation_is_asked_for_once() -> None:
    asked: list[Relation] = []
    decoder = snapshot.Decoder(lambda relation: asked.append(relation) or ((), ()))  # type: ignore[func-returns-value]
    for _ in range(3):
        list(decoder.changes(segment(("1", "x", "y")), START))
    assert asked == [RELATION]


def test_an_excerpt_holds_its_row_alone() -> None:
    whole = segment(*[(str(number), "n", None) for number in range(5)])
    found = changes(whole)
    kept = snapshot.excerpt(whole, {found[1].position, found[4].position})
    assert sorted(kept) == [found[1].position, found[4].position]
    for change in (found[1], found[4]):
        part = unpack(pack(kept[change.position]))
        assert (part.count, part.first, part.last) == (1, change.position, change.position)
        assert changes(part) == [change]


def test_what_is_cut_off_or_of_another_shape_is_refused() -> None:
    whole = segment(("1", "note", "b"))
    bad = [
        whole.frames[:-1],
        struct.pack(">IQ", 3, LOW) + b"1\ta",
        struct.pack(">IQ", 6, LOW) + b"1\t\\q\tb",
        struct.pack(">IQ", 5, LOW) + b"1\t\xff\tb",
    ]
    for frames in bad:
        with pytest.raises(ValueError):
            changes(Segment("snapshot", frames, 1, 1, whole.first, whole.last, AT, AT, (DESCRIBED,), whole.open))


@given(st.data())
def test_damage_is_found_or_gives_other_rows_and_never_another_error(data: st.DataObject) -> None:
    found = damaged(data, segment(("1", "a\\b", None), ("2", None, "b")))
    with contextlib.suppress(ValueError):
        assert len(changes(found)) < 100_000


@pytest.mark.parametrize(
    "text",
    [
        "id > 3",
        "note = ')'",
        "note = E'\\')'",
        "note = $$ ) ; $$",
        'note = $q$ ) $$ $q$ AND ")" IS NULL',
        "a$b$ > 1 AND b$ > (2)",
        "id = 1 -- ) ; '",
        "note = E'a'\n  'b\\')'",
    ],
)
def test_one_condition_is_taken_as_it_is(text: str) -> None:
    assert texts(text) == [text]
    assert texts(["true", " TRUE ", text]) == [text]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("true); DELETE FROM x; --", "closes a parenthesis"),
        ("true; DELETE FROM x", "contains `;`"),
        ("(true", "not closed"),
        ("note = 'a", "quote in it is not closed"),
        ('"note = 1', "quote in it is not closed"),
        ("note = $$a", "quote in it is not closed"),
        ("E'a'\n'\\' ' ) --'", "closes a parenthesis"),
        ("a$b$ > 1) OR (b$", "closes a parenthesis"),
        ("true /* a */", "comments"),
        ("id = $1", "the parameter $1"),
        ("  \n", "empty"),
        ("a\0", "NUL"),
    ],
)
def test_text_that_could_end_what_it_stands_in_is_refused(text: str, why: str) -> None:
    with pytest.raises(SourceError, match="cannot be used") as refused:
        texts(text)
    assert why in str(refused.value)


def test_a_read_that_finds_little_goes_further_the_next_time() -> None:
    pace = Pace(1000)
    assert pace.span(10) == 10
    for _ in range(20):
        pace.took(0.01, 1, 50, 10)
    assert pace.span(10) == 640
    for _ in range(20):
        pace.took(0.01, 10, 500, 10)
    assert pace.span(10) == 10


def test_a_slow_read_goes_less_far_and_a_quick_one_comes_back() -> None:
    pace = Pace(1000)
    pace.took(2.0, 10, 500, 10)
    pace.slower()
    assert pace.span(10) == 2
    for _ in range(20):
        pace.took(0.01, pace.span(10), 100, 10)
    assert pace.span(10) == 10
    for _ in range(50):
        pace.slower()
    assert pace.span(10) == 1


def test_wide_rows_are_taken_by_fewer() -> None:
    pace = Pace(1000)
    assert pace.rows(100) == 100
    pace.took(0.5, 10, 5000, 100)
    assert pace.rows(100) == 2
    pace.took(0.5, 2, 10, 100)
    assert pace.rows(100) == 100
