"""What `explain` says is what the pipeline does, whatever the condition and the row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc_tracker.config.config import Config
from cdc_tracker.journal import Journal
from cdc_tracker.mapping import load_texts
from cdc_tracker.model import START, UNCHANGED, Event, Rejection, Result
from cdc_tracker.operations.explain import explain
from cdc_tracker.operations.explained import Explanation
from cdc_tracker.pipeline import Pipeline
from cdc_tracker.state import SourceRecord, State
from cdc_tracker.worker.assemble import build_pipeline, load_config, open_journal
from tests.hostile import NUMBERS, TEXTS, VALUES
from tests.unit.pipeline.frames import Commit, Order, Written, at, segments

ROOT = Path(__file__).resolve().parents[3]
RECORD = SourceRecord("main", "7", "shop", "cdc_tracker", "pgoutput", "00000000-0000-0000-0000-000000000001", 1, 100, 100, 1)
CONFIG = """\
version: 1
source: {url: postgresql://nobody@127.0.0.1:1/nowhere}
mappings: [mappings/]
destinations: {events: {type: memory}}
"""
ATOMS = [
    "new.status == 'paid'",
    "old.status != 'paid'",
    "changed(new.status, old.status)",
    "entered(new.status, 'paid')",
    "new.amount > 10.5",
    "old.amount < new.amount",
    "new.email != None",
    "new.email is None",
    "length(new.email) > 3",
    "lower(new.status) in ['paid', 'new']",
    "op == 'update'",
    "json(new.status)['plan'] == 'pro'",
    "100 / new.user_id > 2",
    "new.id",
    "new.email",
    "big",
    "total > 5",
    "'nobody' == new.email and False",
    "length([c for c in [1, 2, 3] if c > new.user_id]) > 0",
]
LET = """\
    let:
      total: new.amount * 2
      big: total > 100 or old.status == 'x'
"""
conditions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(lambda each: " and ".join(f"({one})" for one in each)),
        st.lists(inner, min_size=2, max_size=4).map(" and ".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: f"({' or '.join(each)})"),
        inner.map(lambda one: f"(not ({one}))"),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: "(\n" + "\n   and ".join(each) + ")"),
    ),
    max_leaves=6,
)
numbers = st.sampled_from(["0", "1", "3", "600", "9.50", "20.00", "-1", "NaN", "99999999999999999999.5"])
written = [text for text in (*TEXTS.values(), *VALUES.values(), *NUMBERS.values()) if "\0" not in text and len(text) < 20_000]
texts = st.one_of(st.sampled_from(["paid", "new", "PAID", '{"plan": "pro"}', "x", "a@example.com"]), st.sampled_from(written))
integers = st.sampled_from(["0", "1", "3", "7"])
cell = st.one_of(texts, st.none())
row = st.tuples(integers, st.one_of(integers, st.none()), cell, st.one_of(numbers, st.none()), cell)
new_row = st.tuples(
    integers, st.one_of(integers, st.none()), st.one_of(cell, st.just(UNCHANGED)), st.one_of(numbers, st.none()), cell
)
inserts = row.map(lambda each: Order(*each))  # type: ignore[arg-type]
changes = st.one_of(
    inserts,
    st.builds(Written, new_row, st.one_of(row, st.none())),
    row.map(lambda old: Written(None, old)),
    st.just(Written()),
)


def explained(folder: Path, mapping: str, rows: list[Any], event: str) -> tuple[Explanation, list[tuple[Any, list[Result]]]]:
    """What `explain` says of the rows, and what the pipeline of a delivery makes of them."""
    (folder / "mappings").mkdir(exist_ok=True)
    (folder / "cdc-tracker.yml").write_text(CONFIG)
    (folder / "mappings" / "events.yml").write_text(mapping)
    config: Config = load_config(folder / "cdc-tracker.yml")
    config.data.mkdir(exist_ok=True)
    with State.open(config.state_url) as state, open_journal(config) as journal:
        state.sources.save(RECORD)
        journal.clear()
        journal.append(segments([Commit(at(number), rows[number : number + 3]) for number in range(0, len(rows), 3)]))
        found = explain(config, state, journal, event, limit=1_000)
        return found, made(build_pipeline(config, RECORD, "events"), journal)


def alone(folder: Path, mapping: str, parts: list[str], rows: list[Any]) -> list[list[bool]]:
    """Whether each part of a condition, written as a condition of its own, lets each row through. One that raises does not."""
    head, _, rest = mapping.partition("    when: |\n")
    event = head.partition("events:\n")[2]
    _, _, identity = rest.partition("    user_id")
    texts = [
        f"{event.replace('Order Paid', f'Part {number}')}    when: |\n"
        + "\n".join(f"      {line}" for line in part.splitlines())
        + "\n    user_id: \"'-'\"\n"
        for number, part in enumerate(parts)
    ]
    assert identity
    _, expected = explained(folder, "version: 1\nevents:\n" + "".join(texts), rows, "Part 0")
    made = [{result.mapping for result in results if isinstance(result, Event)} for _, results in expected]
    return [[f"Part {number}" in each for number in range(len(parts))] for each in made]


def made(pipeline: Pipeline, journal: Journal) -> list[tuple[Any, list[Result]]]:
    return [found for segment in journal.read(START, 1_000) for found in pipeline.changes(segment, START)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explained")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(when=conditions, rows=st.lists(changes, min_size=1, max_size=12), on=st.sampled_from(["insert", "update", "delete"]))
def test_a_change_is_explained_as_what_the_pipeline_makes_of_it(folder: Path, when: str, rows: list[Any], on: str) -> None:
    lines = "\n".join(f"      {line}" for line in when.splitlines())
    mapping = (
        f"version: 1\nevents:\n  - name: Order Paid\n    table: shop.orders\n    on: [insert, {on}]\n{LET}"
        f"    when: |\n{lines}\n    user_id: new.user_id\n    properties: {{amount: {{value: new.amount, maximum: 500}}}}\n"
    )
    if on == "insert":
        mapping = mapping.replace("[insert, insert]", "[insert]")
    found, expected = explained(folder, mapping, rows, "Order Paid")
    [one] = found.mappings
    assert one.counts.total() == len(expected) == len(one.shown) == len(rows)
    holds = alone(folder, mapping, [part.expression.text for part in one.parts], rows)
    for each, (change, results), true in zip(one.shown, expected, holds, strict=True):
        verdict = each.verdict
        if verdict.cause.kind == "condition":
            assert [number for number, part in enumerate(true) if not part] == [failed.part for failed in verdict.failed]
        if verdict.cause.kind == "event":
            assert all(true)
        assert verdict.position == change.position
        if not results:
            assert verdict.result is None
            assert verdict.cause.kind in ("condition", "operation")
            parts = [one.parts[failed.part].expression.text for failed in verdict.failed if not failed.error]
            assert (verdict.cause.kind == "condition") == bool(parts)
            continue
        [result] = results
        assert verdict.result == result
        assert verdict.cause.kind == ("event" if isinstance(result, Event) else "rejected")
        if isinstance(result, Rejection) and result.field == "when" and result.reason == "expression_error":
            assert any(failed.error == f"{result.reason}: {result.detail}" for failed in verdict.failed), "the part that raises"


@pytest.mark.parametrize("file", ["orders.yml", "subscriptions.yml", "users.yml"])
def test_the_demos_mappings_are_explained_as_they_work(folder: Path, file: str) -> None:
    """Over rows of a table that is not theirs in every column: rejections are explained, too."""
    text = (ROOT / "mappings" / file).read_text()
    tables = {mapping.table for mapping in load_texts({"demo.yml": text}).all}
    for table in tables:
        text = text.replace(f"table: {table}\n", "table: shop.orders\n")
    rows: list[Any] = []
    for value in ["paid", "pending", "refunded", "trialing", "active", "canceled", *written]:
        rows += [
            Order(1, 3, value, "5.00", value),
            Written(("1", "3", value, "5.00", None), ("1", "3", "pending", "5.00", value)),
            Written(None, ("1", None, value, None, value)),
            Written(("1", "3", UNCHANGED, None, value), None),
        ]
    for mapping in load_texts({"demo.yml": text}).all:
        found, expected = explained(folder, text, rows, mapping.key)
        one = next(each for each in found.mappings if each.mapping.key == mapping.key)
        results = [result for _, made_of in expected for result in made_of if result.mapping == mapping.key]
        kinds = Counter(type(result).__name__ for result in results)
        counted = Counter({"Event": 0, "Rejection": 0})
        for cause, number in one.counts.items():
            counted[{"event": "Event", "rejected": "Rejection"}.get(cause.kind, "none")] += number
        assert one.counts.total() == len(rows)
        assert (counted["Event"], counted["Rejection"]) == (kinds["Event"], kinds["Rejection"])
