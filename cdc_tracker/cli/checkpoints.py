"""`rewind`: moves a destination's checkpoint back within the journal."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from cdc_tracker.cli import Invocation, show
from cdc_tracker.cli.targets import EARLIEST, Target, parse_target
from cdc_tracker.errors import Stop
from cdc_tracker.model import Event, Position, Segment, format_lsn

if TYPE_CHECKING:
    from cdc_tracker.config import Config
    from cdc_tracker.journal import Horizon, Journal
    from cdc_tracker.state import Checkpoint, State
    from cdc_tracker.translate import Translator

READ_AT_ONCE = 16


class Again(NamedTuple):
    """What a rewind would send once more: how often each mapping makes an event, and what it would reject."""

    events: Counter[str]
    rejections: Counter[str]


def _target(_ctx: click.Context, _parameter: click.Parameter, value: str) -> Target:
    try:
        return parse_target(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("destination")
@click.option("--to", "target", required=True, callback=_target, help='An LSN, an ISO time, how long ago ("2h"), or "earliest".')
@click.option("--dry-run", is_flag=True, help="Only say what would be sent again.")
@show.yes
@show.as_json
@click.pass_obj
def rewind(invocation: Invocation, destination: str, target: Target, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Move a destination's checkpoint back, so that the events after it are sent again.

    Events are made anew under the present mappings; those that come out the same have the same ids. It may be done
    while the worker runs. It reaches back as far as the journal does.
    """
    from cdc_tracker.cli import stores  # noqa: PLC0415

    config = stores.load_config(invocation)
    stores.one_destination(config, destination)
    with stores.opened_state(config) as state, stores.opened_journal(config) as journal:
        record = stores.known_source(config, state)
        checkpoint = state.checkpoint(record.name, destination)
        if checkpoint is None:
            raise Stop(
                f"The destination {destination!r} has no checkpoint: nothing was ever delivered to it, and nothing can go again.",
                hint="`cdc-tracker setup` gives a new destination its checkpoint.",
            )
        to = located(journal, target, checkpoint)
        again = _counted(stores.translator(config, record, destination), journal, to, checkpoint.position)
        plan = _plan(config, destination, to, checkpoint, again)
        if not as_json:
            _tell(plan, again)
        if not dry_run:
            show.ask(f"Rewind {destination} to {to}?", yes=yes)
            state.request_rewind(record.name, destination, to)
            journal.wake(destination)
            plan["applied"] = _when_applied(state, record.name, destination)
    if as_json:
        show.emit(plan)
    elif not dry_run:
        click.echo(plan["applied"])


def located(journal: Journal, target: Target, checkpoint: Checkpoint) -> Position:
    """The position meant. Raises Stop where the journal does not reach back so far, or where it lies ahead."""
    horizon = journal.horizon()
    if horizon is None:
        raise Stop("The journal is empty: there is nothing to send again.", hint="It fills while `cdc-tracker run` captures.")
    if target == EARLIEST:
        to = horizon.start
    elif target.lsn is not None:
        to = Position(target.lsn, -1)
    else:
        to = _at_time(journal, horizon, target.time_us or 0)
    if to < horizon.start:
        raise beyond(horizon)
    if to >= checkpoint.position:
        raise Stop(
            f"The checkpoint is at {checkpoint.position}, which is not past {to}: there is nothing to send again. "
            "A rewind only goes back, since going forward would skip events.",
            hint="`cdc-tracker status` shows where each destination is.",
        )
    return to


def beyond(horizon: Horizon) -> Stop:
    return Stop(
        f"The journal does not reach back so far: it begins at {horizon.start} ({show.moment(horizon.first_time)}). "
        "Nothing was changed; what is older can no longer be sent again from the journal.",
        hint=f"Rewind to {format_lsn(horizon.start.commit_lsn)} or later, or to `earliest`.",
    )


def _at_time(journal: Journal, horizon: Horizon, time_us: int) -> Position:
    """Just before the first transaction committed at or after the time."""
    from cdc_tracker.cli.raw import bare_changes  # noqa: PLC0415

    if time_us < horizon.first_time:
        raise beyond(horizon)
    after = journal.locate(time_us)
    for segment in journal.read(after, 1):
        for change in bare_changes(segment, after):
            if change.transaction.committed_at >= time_us:
                return max(Position(change.transaction.commit_lsn, -1), horizon.start)
    return after


def _counted(translator: Translator, journal: Journal, after: Position, upto: Position) -> Again:
    again = Again(Counter(), Counter())
    position = after
    with show.progress("Counting the events of this range") as advance:
        while position < upto:
            segments = journal.read(position, READ_AT_ONCE)
            for segment in segments:
                _count(translator, segment, position, upto, again)
                position = segment.last
                advance()
            if not segments:
                break
    return again


def _count(translator: Translator, segment: Segment, after: Position, upto: Position, again: Again) -> None:
    for change, made in translator.changes(segment, after):
        if change.position > upto:
            return
        for each in made:
            (again.events if isinstance(each, Event) else again.rejections)[each.mapping] += 1


def _plan(config: Config, destination: str, to: Position, checkpoint: Checkpoint, again: Again) -> dict[str, object]:
    from cdc_tracker.destinations import registry  # noqa: PLC0415

    kind = registry.load(config.destinations[destination].type)
    return {
        "destination": destination,
        "from": str(checkpoint.position),
        "to": str(to),
        "events": again.events.total(),
        "by_mapping": dict(sorted(again.events.items())),
        "rejections": again.rejections.total(),
        "guarantee": kind.guarantee,
        "repeats": kind.repeats,
    }


def _tell(plan: dict[str, object], again: Again) -> None:
    events = show.plural(again.events.total(), "event")
    click.echo(f"{plan['destination']}: from {plan['from']} back to {plan['to']}, {events} would go again.")
    rows = [
        (mapping, f"{again.events[mapping]:,}", f"{again.rejections[mapping]:,}")
        for mapping in sorted(again.events | again.rejections)
    ]
    if rows:
        show.console().print(show.table(("mapping", "events", "rejected"), rows, right=("events", "rejected")))
    click.echo(f"An event that it already has: this destination {plan['repeats']}.")


def _when_applied(state: State, source: str, destination: str) -> str:
    if show.is_alive(state.roles(source), f"deliver:{destination}"):
        return "The running worker goes back at once."
    return "No worker is delivering to it now: the rewind is applied when `cdc-tracker run` starts."
