"""`preview`: live changes and the events they become. Delivers nothing, keeps no slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, change_view, output
from cdc_tracker.model import Event, Rejection
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.operations.preview import Preview, Previewed


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0), help="End after so many seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many changes.")
@click.option("--table", "tables", multiple=True, metavar="SCHEMA.TABLE", help="Only this table. Repeatable.")
@click.option("--raw", is_flag=True, help="Print each change as Debezium's envelope, one a line, instead of its events.")
@output.as_json
@click.pass_obj
def preview(
    invocation: Invocation, seconds: float | None, count: int | None, tables: tuple[str, ...], raw: bool, as_json: bool
) -> None:
    """Show live changes and the events they become, without delivering.

    It reads through a temporary slot, which ends with it; a running worker is not disturbed. Ctrl-C ends it.
    """
    changes = events = rejected = 0
    with operations.preview.opened(invocation.config, tables) as opened:
        _introduce(opened)
        try:
            for found in opened.changes(raw=raw, seconds=seconds, count=count):
                changes += 1
                events += sum(isinstance(each, Event) for each in found.results)
                rejected += sum(isinstance(each, Rejection) for each in found.results)
                output.say(found.envelope if raw else _json(found) if as_json else _text(found))
        except KeyboardInterrupt:
            pass
    mapped = "" if raw else f", {plural(events, 'event')}, {rejected:,} rejected"
    output.say(f"{plural(changes, 'change')}{mapped}. Nothing was delivered.", err=True)


def _introduce(opened: Preview) -> None:
    for problem in opened.problems:
        output.warn(str(problem), err=True)
    if opened.publication:
        output.say(f"The publication {opened.publication} was made for this preview, and is dropped when it ends.", err=True)
    output.say(f"Waiting for changes of {', '.join(sorted(opened.tables)) or 'no table'} ({opened.plugin}).", err=True)


def _text(found: Previewed) -> str:
    results = found.results
    lines = [change_view.head(found.change)]
    for each in results:
        if isinstance(each, Event):
            lines.append(f"  → {each.mapping}: {each.body.decode()}")
        elif isinstance(each, Rejection):
            lines.append(change_view.rejected(each, each.detail))
    return "\n".join(lines if results else [f"{lines[0]}  (no event)"])


def _json(found: Previewed) -> str:
    """One line. Events have the bytes that are sent."""
    change, results = found.change, found.results
    events = ",".join(each.body.decode() for each in results if isinstance(each, Event))
    rejections = [change_view.rejection(each, each.detail) for each in results if isinstance(each, Rejection)]
    head = change_view.place(change)
    return f'{output.line(head)[:-1]},"events":[{events}],"rejections":{output.line(rejections)}}}'
