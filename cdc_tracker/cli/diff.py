"""`diff`: what other mappings would have made of a past range of the journal. Sends nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, output
from cdc_tracker.errors import Stop

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.delivery.points import Target
    from cdc_tracker.mapping import Mappings
    from cdc_tracker.operations.diff import Side
    from cdc_tracker.state import SourceRecord

_MAPPINGS = "The other mappings, a file or folder. Repeatable."


@click.command()
@click.option("--mappings", "paths", multiple=True, required=True, type=click.Path(path_type=Path, exists=True), help=_MAPPINGS)
@click.option("--from", "start", required=True, callback=options.point, help=options.POINT)
@click.option("--to", "end", callback=options.point, help="Where to end, written likewise (default: the journal's end).")
@click.option("--destination", help="Only what goes to this destination.")
@options.events
@click.option("--samples", type=click.IntRange(0, 1000), default=3, show_default=True, help="How many of each kind to show.")
@output.as_json
@click.pass_obj
def diff(
    invocation: Invocation,
    paths: tuple[Path, ...],
    start: Target,
    end: Target | None,
    destination: str | None,
    names: tuple[str, ...],
    samples: int,
    as_json: bool,
) -> None:
    """Show what other mappings would have made of a past range, without sending.

    Reads the journal under the mappings in force and under those given, and compares event by event. Events of the outbox do
    not depend on mappings and are left out. Values of properties that are `pii` are not shown. A running worker is not
    disturbed. The exit code is 0 whether there are differences or not.
    """
    from cdc_tracker.cli import diff_view, stores  # noqa: PLC0415
    from cdc_tracker.delivery.points import range_of  # noqa: PLC0415
    from cdc_tracker.model import START  # noqa: PLC0415
    from cdc_tracker.operations.diff import difference  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    config = stores.load_config(invocation)
    if destination is not None:
        operations.named.destination(config, destination)
        if config.destinations[destination].requirements.raw:
            raise Stop(
                f"The destination {destination!r} gets the changes as they are: no mapping makes any difference to it.",
                hint="Leave out --destination to compare the events.",
            )
    current, other = assemble.load_mappings(config), _other(config, paths)
    keys = operations.named.events([*current.all, *other.all], names)
    with stores.opened_state(config, to_read=True) as state:
        record = operations.named.source(config, state)
    before, after = (_side(config, record, mappings, keys, destination) for mappings in (current, other))
    with stores.opened_journal(config, to_read=True) as journal:
        begin, upto = range_of(journal, start, end, journal.end() or START)
        with output.progress("Comparing") as advance:
            found = difference(before, after, journal, begin, upto, captured=current, samples=samples, advance=advance)
    if as_json:
        diff_view.emit(found, destination)
    else:
        diff_view.tell(found)


def _other(config: Config, paths: Sequence[Path]) -> Mappings:
    """Checked as those in force are, against the destinations that are configured too."""
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    return assemble.load_mappings(config.model_copy(update={"mappings": [path.absolute() for path in paths]}))


def _side(config: Config, record: SourceRecord, mappings: Mappings, keys: Sequence[str], destination: str | None) -> Side:
    """What goes to the destination of the events asked for. Without an outbox: its events do not depend on mappings."""
    from cdc_tracker.mapping import Mappings  # noqa: PLC0415
    from cdc_tracker.operations.diff import Side  # noqa: PLC0415
    from cdc_tracker.pipeline import Pipeline  # noqa: PLC0415

    chosen = Mappings(tuple(each for each in mappings.all if each.key in keys and each.goes_to(destination)))
    namespace = uuid.UUID(record.namespace)
    return Side(chosen, Pipeline(chosen, outbox=None, namespace=namespace, database=record.database, destination=destination))
