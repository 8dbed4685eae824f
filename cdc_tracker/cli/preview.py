"""`preview`: live changes and the events they become. Delivers nothing, keeps no slot."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from cdc_tracker.cli import Invocation, output
from cdc_tracker.model import START, Change, Event, Op, Rejection
from cdc_tracker.sources.postgres.needs import Need

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.model import Result, Segment
    from cdc_tracker.pipeline import Pipeline
    from cdc_tracker.sources.postgres.catalog import ServerIdentity
    from cdc_tracker.sources.postgres.temporary_stream import TemporaryStream


class _Limits:
    """When to end: after so many seconds, so many changes, or never."""

    def __init__(self, seconds: float | None, count: int | None) -> None:
        self._deadline = time.monotonic() + seconds if seconds is not None else None
        self._count = count
        self.changes = self.events = self.rejections = 0

    @property
    def reached(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or (self._count is not None and self.changes >= self._count)


_UNMAPPED = Need(frozenset({"insert"}), every_column=True)


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0), help="End after so long.")
@click.option("--count", type=click.IntRange(1), help="End after so many changes.")
@click.option("--table", "tables", multiple=True, metavar="SCHEMA.TABLE", help="Only this table; may be given several times.")
@click.option("--raw", is_flag=True, help="Print each change as Debezium's envelope, one a line, instead of its events.")
@output.as_json
@click.pass_obj
def preview(
    invocation: Invocation, seconds: float | None, count: int | None, tables: tuple[str, ...], raw: bool, as_json: bool
) -> None:
    """Show live changes and the events they become, without delivering.

    It reads through a temporary slot, which ends with it; a running worker is not disturbed. Ctrl-C ends it.
    """
    from cdc_tracker.cli.stores import load_config  # noqa: PLC0415
    from cdc_tracker.sources.postgres.temporary_stream import TemporaryStream  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    config = load_config(invocation)
    mappings = assemble.load_mappings(config)
    watched = frozenset(tables or [*mappings.tables(), *([config.source.outbox.table] if config.source.outbox else [])])
    needs = assemble.table_needs(config, mappings)
    limits = _Limits(seconds, count)
    with ExitStack() as stack:
        shown = {table: replace(needs.get(table, _UNMAPPED), every_change=True) for table in watched}
        peek = stack.enter_context(TemporaryStream(config.source, shown))
        _welcome(peek, watched)
        translator = _translator(config, peek.identity)
        try:
            for segment in peek.segments(lambda: limits.reached):
                _print(segment, watched, limits, None if raw else translator, peek.identity.database, as_json)
        except KeyboardInterrupt:
            pass
    made = "" if raw else f", {output.plural(limits.events, 'event')}, {limits.rejections:,} rejected"
    output.say(f"{output.plural(limits.changes, 'change')}{made}. Nothing was delivered.", err=True)


def _welcome(peek: TemporaryStream, watched: Iterable[str]) -> None:
    for problem in peek.problems:
        output.say(f"⚠ {problem}", fg="yellow", err=True)
    if peek.made:
        output.say(f"The publication {peek.made} was made for this preview, and is dropped when it ends.", err=True)
    output.say(f"Waiting for changes of {', '.join(sorted(watched)) or 'no table'} ({peek.plugin}).", err=True)


def _translator(config: Config, identity: ServerIdentity) -> Pipeline:
    """With the ids that a run would give: in the namespace of the record, or in that which `setup` would make."""
    from cdc_tracker import envelope  # noqa: PLC0415
    from cdc_tracker.cli.stores import opened_state  # noqa: PLC0415
    from cdc_tracker.pipeline import Pipeline  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    record = None
    if config.state.url or (config.data / "state.sqlite").exists():
        with opened_state(config, to_read=True) as state:
            record = state.sources.get(config.source.name)
    space = record.namespace if record else config.source.namespace
    return Pipeline(
        assemble.load_mappings(config),
        outbox=config.source.outbox,
        namespace=uuid.UUID(space) if space else envelope.namespace(identity.system_id, identity.database, 1),
        database=identity.database,
    )


def _print(
    segment: Segment, watched: frozenset[str], limits: _Limits, translator: Pipeline | None, database: str, as_json: bool
) -> None:
    for change, made in _changes(segment, translator):
        if limits.reached or (change.relation and change.relation.table not in watched):
            continue
        limits.changes += 1
        limits.events += sum(isinstance(each, Event) for each in made)
        limits.rejections += sum(isinstance(each, Rejection) for each in made)
        if translator is None:
            from cdc_tracker.pipeline.debezium_envelope import as_envelope  # noqa: PLC0415

            output.say(as_envelope(change, database))
        else:
            output.say(_json(change, made) if as_json else _text(change, made))


def _changes(segment: Segment, translator: Pipeline | None) -> Iterator[tuple[Change, list[Result]]]:
    from cdc_tracker.pipeline import whole_changes  # noqa: PLC0415

    if translator is not None:
        yield from translator.changes(segment, START)
        return
    for change in whole_changes(segment):
        yield change, []


def _subject(change: Change) -> str:
    return change.relation.table if change.relation else f"message {change.prefix}"


def _text(change: Change, made: list[Result]) -> str:
    lines = [f"{change.transaction.timestamp}  {Op(change.op).name.lower():8} {_subject(change)}  {change.position}"]
    for each in made:
        if isinstance(each, Event):
            lines.append(f"  → {each.mapping}: {each.body.decode()}")
        elif isinstance(each, Rejection):
            what = ": ".join(part for part in (each.field, each.detail) if part)
            lines.append(f"  ✗ {each.mapping}: {each.reason}{f' ({what})' if what else ''}")
    return "\n".join(lines if made else [f"{lines[0]}  (no event)"])


def _json(change: Change, made: list[Result]) -> str:
    """One line. Events are put in as they are: their bytes are part of the promise."""
    events = ",".join(each.body.decode() for each in made if isinstance(each, Event))
    rejections = [
        {"mapping": each.mapping, "reason": each.reason, "field": each.field, "detail": each.detail}
        for each in made
        if isinstance(each, Rejection)
    ]
    head = {"op": change.op, "table": _subject(change), "position": str(change.position), "at": change.transaction.timestamp}
    return f'{output.line(head)[:-1]},"events":[{events}],"rejections":{output.line(rejections)}}}'
