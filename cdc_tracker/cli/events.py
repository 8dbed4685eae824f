"""`events`: recent events beside their rows, from the journal or as they come. Sends nothing."""

from __future__ import annotations

from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, change_view, options, output
from cdc_tracker.model import START, Rejection, canonical
from cdc_tracker.printable import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdc_tracker.delivery.points import Target
    from cdc_tracker.operations.events import Feed, Seen
    from cdc_tracker.operations.rows import Value

_LAST = 20
_ROW, _EVENT = 48, 90  # characters of the two columns


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--follow", "-f", is_flag=True, help="Go on with the events that come, until Ctrl-C.")
@click.option("--from", "start", callback=options.point, help=f"Begin there instead. {options.POINT}")
@click.option("--limit", type=click.IntRange(1), help=f"Begin so many back (default: {_LAST}); with --from, end after so many.")
@output.as_json
@click.pass_obj
def events(
    invocation: Invocation, names: tuple[str, ...], follow: bool, start: Target | None, limit: int | None, as_json: bool
) -> None:
    """Show recent events beside their rows: of all mappings, or of those NAMEd by key or name (`outbox`: the outbox's).

    Made again from the journal by the mappings as they are now; nothing is sent, and no database is needed. Personal values are
    not shown: of properties that are `pii`, and of columns and properties with names such as email.
    """
    shown = 0
    with invocation.state(to_read=True) as state, invocation.journal(to_read=True) as journal:
        feed = operations.events.Feed(invocation.config, state, journal, names)
        try:
            for seen in _chosen(feed, start, follow, limit):
                _warn(feed)
                output.say(_json(seen) if as_json else _text(seen))
                shown += 1
        except KeyboardInterrupt:
            pass
        _warn(feed)
        if not shown:
            output.say("The journal has no such event." if feed.end > START else "The journal is empty.", err=True)


def _chosen(feed: Feed, start: Target | None, follow: bool, limit: int | None) -> Iterator[Seen]:
    if start is not None:
        return islice(feed.since(start, follow=follow), limit)
    end = feed.end
    last = feed.last(limit or _LAST, end)
    return chain(last, feed.after(end, follow=True)) if follow else iter(last)


def _warn(feed: Feed) -> None:
    while feed.gaps:
        output.warn(f"The journal was trimmed meanwhile: events before {feed.gaps.pop(0)} may be missing here.", err=True)


def _text(seen: Seen) -> str:
    lines = [change_view.head(seen.change)]
    if isinstance(seen.result, Rejection):
        lines.append(change_view.rejected(seen.result, seen.detail))
    else:
        lines.append(f"  → {one_line(seen.result.mapping)}  {one_line(seen.result.message_id)}")
    for left, right in zip_longest(_row(seen), _event(seen), fillvalue=""):
        lines.append(f"      {change_view.short(left, _ROW):{_ROW}}  {change_view.short(right, _EVENT)}".rstrip())
    return "\n".join(lines)


def _row(seen: Seen) -> Iterator[str]:
    """Yields the columns that are not null, and those that an update changed with both values."""
    before = {value.column: value for value in seen.old}
    for value in seen.new or seen.old:
        old = before.get(value.column) if seen.new else None
        shown = value.json or f"({value.missing})"
        if old is not None and not old.missing and old.json != value.json:
            yield f"{value.column} = {old.json} → {shown}"
        elif shown != "null":
            yield f"{value.column} = {shown}"


def _event(seen: Seen) -> Iterator[str]:
    if seen.event == {}:
        yield "(it is nested too deeply, or has too long a number, to be searched for personal values)"
    elif seen.event is not None:
        yield from (f"{path} = {canonical(value)}" for path, value in operations.masking.flattened(seen.event).items())


def _json(seen: Seen) -> str:
    """One line."""
    result = seen.result
    made: dict[str, Any] = {"mapping": result.mapping, "event": seen.event}
    if isinstance(result, Rejection):
        made = {"mapping": result.mapping, "rejection": change_view.rejection(result, seen.detail)}
    missing = {value.label: value.missing for value in (*seen.new, *seen.old) if value.missing}
    row = {"new": _cells(seen.new), "old": _cells(seen.old), "missing": missing}
    return canonical({**change_view.place(seen.change), **made, "row": row})


def _cells(row: list[Value]) -> dict[str, msgspec.Raw] | None:
    return {value.column: msgspec.Raw(value.json.encode()) for value in row if not value.missing} if row else None
