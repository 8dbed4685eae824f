"""`dead-letters`: what was parked, why, and what to do with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdc_tracker.cli import Invocation, output
from cdc_tracker.printable import one_line

if TYPE_CHECKING:
    from cdc_tracker.state import DeadLetter, LetterState, Selection

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

    A dead letter keeps its change as it came from the WAL: after a mapping is mended, `retry` makes the event anew from it.
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
    from cdc_tracker.cli.stores import load_config, opened_state  # noqa: PLC0415

    config = load_config(invocation)
    with opened_state(config, to_read=True) as store:
        found = store.dead_letters(
            config.source.name, destination=destination, state=state, mapping=mapping, reason=reason, limit=limit + 1
        )
    more, found = len(found) > limit, found[:limit]
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
    from cdc_tracker.cli.stores import load_config, opened_state  # noqa: PLC0415

    config = load_config(invocation)
    with opened_state(config, to_read=True) as state:
        letter = state.dead_letter(number)
        record = state.source(config.source.name)
    if letter is None or letter.source != config.source.name:
        raise click.UsageError(f"there is no dead letter {number}; `cdc-tracker dead-letters list` shows them")
    told = as_dict(letter)
    changes = _changes(letter, record.database if record else "") if raw else []
    if as_json:
        output.emit({**told, "changes": [json.loads(change, parse_float=str) for change in changes]} if raw else told)
        return
    width = max(map(len, told))
    for key, value in told.items():
        output.say(f"{key.ljust(width)}  {one_line(str(value))}")
    for change in changes:
        output.say(f"\n{change}")


def _changes(letter: DeadLetter, database: str) -> list[str]:
    from cdc_tracker.journal import decode  # noqa: PLC0415
    from cdc_tracker.pipeline.debezium_envelope import as_envelope  # noqa: PLC0415
    from cdc_tracker.pipeline.pipeline import whole_changes  # noqa: PLC0415

    segment = decode(letter.segment, f"the segment of dead letter {letter.id}")
    return [as_envelope(change, database) for change in whole_changes(segment) if change.position == letter.position]


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
    """Make the events anew under the present mappings and deliver them.

    What fails again is parked again, with its new reason. Event ids stay the same.
    """
    from cdc_tracker.cli.stores import load_config, opened_journal, opened_state  # noqa: PLC0415

    chosen = _chosen(numbers, destination, mapping, reason, every)
    config = load_config(invocation)
    with opened_state(config) as state:
        queued = state.queue_dead_letters(config.source.name, chosen)
    if queued:
        with opened_journal(config) as journal:
            journal.wake()
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
    """Give up dead letters for good. The ledger goes on counting them as rejected."""
    from cdc_tracker.cli.stores import load_config, opened_state  # noqa: PLC0415

    chosen = _chosen(numbers, destination, mapping, reason, every)
    config = load_config(invocation)
    what = (
        f"dead letter{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        if numbers
        else "every dead letter that fits"
    )
    output.ask(f"Discard {what}? Their events will never be delivered.", yes=yes)
    with opened_state(config) as state:
        discarded = state.discard_dead_letters(config.source.name, chosen)
    if as_json:
        output.emit({"discarded": discarded})
    else:
        output.say(f"{output.plural(discarded, 'dead letter')} discarded.")


def _chosen(numbers: tuple[int, ...], destination: str | None, mapping: str | None, reason: str | None, every: bool) -> Selection:
    """Which ones: by number, by filter, or --all. Never all of them by leaving everything out."""
    from cdc_tracker.state import Selection  # noqa: PLC0415

    filtered = bool(destination or mapping or reason)
    if numbers and (filtered or every):
        raise click.UsageError("name dead letters by ID, or choose them by --destination, --mapping and --reason, not both")
    if not (numbers or filtered or every):
        raise click.UsageError("say which: IDs, --destination, --mapping, --reason, or --all")
    return Selection(list(numbers) or None, destination, mapping, reason)
