"""`dead-letters`: what was parked, why, and what to do with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, output
from cdc_tracker.printable import one_line

if TYPE_CHECKING:
    from cdc_tracker.state import DeadLetter, LetterState

_Command = TypeVar("_Command", bound=Callable[..., Any])
_REASONS_SHOWN = 60


def _filters(command: _Command) -> _Command:
    for option in (
        click.option("--reason", help="Only this reason, such as type_mismatch."),
        click.option("--mapping", help="Only this mapping."),
        click.option("--destination", help="Only this destination."),
    ):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, retry or discard what was parked.

    A dead letter keeps its change as it came from the WAL: once its mapping is corrected, `retry` maps it again.
    """


@dead_letters.command("list")
@_filters
@click.option("--state", type=click.Choice(["parked", "queued", "discarded"]), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@output.as_json
@click.pass_obj
def list_(
    invocation: Invocation,
    destination: str | None,
    mapping: str | None,
    reason: str | None,
    state: LetterState | None,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, oldest first."""
    with invocation.state(to_read=True) as store:
        found, more = operations.dead_letters.listed(
            store, invocation.source, destination=destination, mapping=mapping, reason=reason, state=state, limit=limit
        )
    if as_json:
        output.emit([as_dict(letter) for letter in found])
    elif not found:
        output.say("No dead letters.")
    else:
        columns = ("id", "destination", "mapping", "reason", "field", "detail", "state", "tries", "since")
        output.console().print(output.table(columns, [_row(letter) for letter in found], right=("id", "tries")))
        if more:
            output.say(f"There are more than {limit}: see --limit and the filters.")


def _row(letter: DeadLetter) -> tuple[object, ...]:
    detail = letter.detail if len(letter.detail) <= _REASONS_SHOWN else letter.detail[: _REASONS_SHOWN - 1] + "…"
    since = output.moment(letter.created_at)
    return (
        letter.id,
        letter.destination,
        letter.mapping,
        letter.reason,
        letter.field,
        detail,
        letter.state,
        letter.attempts,
        since,
    )


def as_dict(letter: DeadLetter) -> dict[str, object]:
    """For JSON; without the segment, which `show --raw` decodes."""
    return {
        "id": letter.id,
        "destination": letter.destination,
        "mapping": letter.mapping,
        "position": str(letter.position),
        "reason": letter.reason,
        "field": letter.field,
        "value_type": letter.value_type,
        "detail": letter.detail,
        "event_id": letter.event_id,
        "state": letter.state,
        "attempts": letter.attempts,
        "created_at": output.moment(letter.created_at),
    }


@dead_letters.command("show")
@click.argument("number", metavar="ID", type=int)
@click.option("--raw", is_flag=True, help="Also show the change itself, with every value of its row.")
@output.as_json
@click.pass_obj
def show_(invocation: Invocation, number: int, raw: bool, as_json: bool) -> None:
    """Show one dead letter."""
    with invocation.state(to_read=True) as state:
        letter = operations.dead_letters.one(state, invocation.source, number)
        record = state.sources.get(invocation.source)
    told = as_dict(letter)
    changes = operations.dead_letters.changes(letter, record.database if record else "") if raw else []
    if as_json:
        output.emit({**told, "changes": [json.loads(change, parse_float=str) for change in changes]} if raw else told)
        return
    width = max(map(len, told))
    for key, value in told.items():
        output.say(f"{key.ljust(width)}  {one_line(str(value))}")
    for change in changes:
        output.say(f"\n{change}")


@dead_letters.command("retry")
@click.argument("numbers", metavar="[ID]...", nargs=-1, type=int)
@_filters
@click.option("--all", "every", is_flag=True, help="All that are parked.")
@output.as_json
@click.pass_obj
def retry(
    invocation: Invocation,
    numbers: tuple[int, ...],
    destination: str | None,
    mapping: str | None,
    reason: str | None,
    every: bool,
    as_json: bool,
) -> None:
    """Map their changes again with the present mappings, and deliver the events.

    What fails again is parked again, with its new reason. Event ids stay the same.
    """
    chosen = operations.dead_letters.selection(numbers, destination, mapping, reason, every=every)
    with invocation.state() as state, invocation.journal() as journal:
        queued = operations.dead_letters.retry(state, journal, invocation.source, chosen)
    if as_json:
        output.emit({"queued": queued})
    else:
        output.say(f"{output.plural(queued, 'dead letter')} queued. A running worker takes them at once, else the next run does.")


@dead_letters.command("discard")
@click.argument("numbers", metavar="[ID]...", nargs=-1, type=int)
@_filters
@click.option("--all", "every", is_flag=True, help="All that are parked.")
@output.yes
@output.as_json
@click.pass_obj
def discard(
    invocation: Invocation,
    numbers: tuple[int, ...],
    destination: str | None,
    mapping: str | None,
    reason: str | None,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Give up dead letters for good. The ledger still counts them as rejected."""
    chosen = operations.dead_letters.selection(numbers, destination, mapping, reason, every=every)
    what = (
        f"dead letter{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        if numbers
        else "every dead letter that fits"
    )
    output.ask(f"Discard {what}? Their events will never be delivered.", yes=yes)
    with invocation.state() as state:
        discarded = operations.dead_letters.discard(state, invocation.source, chosen)
    if as_json:
        output.emit({"discarded": discarded})
    else:
        output.say(f"{output.plural(discarded, 'dead letter')} discarded.")
