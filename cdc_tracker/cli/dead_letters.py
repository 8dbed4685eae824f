"""`dead-letters`: what was parked, why, and what to do with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, output
from cdc_tracker.printable import one_line
from cdc_tracker.times import for_display
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.state import DeadLetter, LetterState, Selection

_Command = Callable[..., Any]
_Filters = dict[str, str | None]
_DETAIL = 60  # characters of a detail in the list
_COLUMNS = {name: name for name in ("id", "destination", "mapping", "reason", "field", "detail", "state")}
_COLUMNS |= {"tries": "attempts", "since": "created_at"}


def _filtered(command: _Command) -> _Command:
    """Gives a command the options by which letters are chosen, as `filters`."""

    @click.option("--destination", help="Only this destination.")
    @click.option("--mapping", help="Only this mapping.")
    @click.option("--reason", help="Only this reason, such as type_mismatch.")
    @wraps(command)
    def filtering(*given: Any, destination: str | None, mapping: str | None, reason: str | None, **others: Any) -> None:
        command(*given, filters={"destination": destination, "mapping": mapping, "reason": reason}, **others)

    return filtering


def _selected(command: _Command) -> _Command:
    """Gives a command the dead letters that its arguments select as `chosen`."""

    @click.argument("numbers", metavar="[ID]...", nargs=-1, type=int)
    @_filtered
    @click.option("--all", "every", is_flag=True, help="All that are parked.")
    @wraps(command)
    def selecting(*given: Any, numbers: tuple[int, ...], filters: _Filters, every: bool, **others: Any) -> None:
        command(*given, chosen=operations.dead_letters.selection(numbers, **filters, every=every), **others)

    return selecting


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, retry or discard what was parked.

    A dead letter keeps its change as it came from the WAL: once its mapping is corrected, `retry` maps it again.
    """


@dead_letters.command("list")
@_filtered
@click.option("--state", type=click.Choice(["parked", "queued", "discarded"]), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@output.as_json
@click.pass_obj
def list_(invocation: Invocation, filters: _Filters, state: LetterState | None, limit: int, as_json: bool) -> None:
    """List dead letters, oldest first."""
    with invocation.state(to_read=True) as store:
        found, more = operations.dead_letters.listed(store, invocation.source, **filters, state=state, limit=limit)
    rows = [as_dict(letter) for letter in found]
    if as_json:
        output.emit(rows)
    elif not rows:
        output.say("No dead letters.")
    else:
        cells = [[_short(str(row[key])) for key in _COLUMNS.values()] for row in rows]
        output.console().print(output.table(list(_COLUMNS), cells, right=("id", "tries")))
        if more:
            output.say(f"There are more than {limit}: see --limit and the filters.")


def _short(text: str) -> str:
    return text if len(text) <= _DETAIL else text[: _DETAIL - 1] + "…"


def as_dict(letter: DeadLetter) -> dict[str, object]:
    """For JSON; without the segment, which `show --raw` decodes."""
    names = (
        "id",
        "destination",
        "mapping",
        "position",
        "reason",
        "field",
        "value_type",
        "detail",
        "event_id",
        "state",
        "attempts",
    )
    return output.fields(letter, *names) | {"position": str(letter.position), "created_at": for_display(letter.created_at)}


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
    shown = as_dict(letter)
    changes = operations.dead_letters.changes(letter, record.database if record else "") if raw else []
    if as_json:
        output.emit({**shown, "changes": [json.loads(change, parse_float=str) for change in changes]} if raw else shown)
        return
    width = max(map(len, shown))
    for key, value in shown.items():
        output.say(f"{key.ljust(width)}  {one_line(str(value))}")
    for change in changes:
        output.say(f"\n{change}")


@dead_letters.command("retry")
@_selected
@output.as_json
@click.pass_obj
def retry(invocation: Invocation, chosen: Selection, as_json: bool) -> None:
    """Map their changes again with the present mappings, and deliver the events.

    What fails again is parked again, with its new reason. Event ids stay the same.
    """
    with invocation.state() as state, invocation.journal() as journal:
        queued = operations.dead_letters.retry(state, journal, invocation.source, chosen)
    if as_json:
        output.emit({"queued": queued})
    else:
        output.say(f"{plural(queued, 'dead letter')} queued. A running worker takes them at once, else the next run does.")


@dead_letters.command("discard")
@_selected
@output.yes
@output.as_json
@click.pass_obj
def discard(invocation: Invocation, chosen: Selection, yes: bool, as_json: bool) -> None:
    """Give up dead letters for good. The ledger still counts them as rejected."""
    ids = chosen.ids or ()
    what = f"dead letter{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}" if ids else "every dead letter that fits"
    output.ask(f"Discard {what}? Their events will never be delivered.", yes=yes)
    with invocation.state() as state:
        discarded = operations.dead_letters.discard(state, invocation.source, chosen)
    if as_json:
        output.emit({"discarded": discarded})
    else:
        output.say(f"{plural(discarded, 'dead letter')} discarded.")
