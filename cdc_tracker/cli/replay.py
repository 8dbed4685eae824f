"""`replay`: a range of the journal again, as a job beside the live stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, outlook, output
from cdc_tracker.errors import Stop

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.delivery.points import Target
    from cdc_tracker.mapping import Mappings

CURRENT = "current"


@click.command()
@click.argument("destination")
@click.option("--from", "start", required=True, callback=options.point, help=options.POINT)
@click.option("--to", "end", callback=options.point, help="Where to end, written likewise (default: the checkpoint).")
@options.events
@click.option(
    "--mappings",
    "paths",
    multiple=True,
    default=(CURRENT,),
    show_default=True,
    metavar="PATH",
    help="Make the events of these mappings: a file or folder, or `current` for those in force. Repeatable.",
)
@click.option("--max-rate", type=click.FloatRange(min=0, min_open=True), help="Events a second at most.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent again.")
@click.option("--detach", is_flag=True, help="Leave it to the worker, and do not show its progress.")
@outlook.only_missing
@outlook.yes_duplicates
@output.yes
@output.as_json
@click.pass_obj
def replay(
    invocation: Invocation,
    /,
    destination: str,
    start: Target,
    end: Target | None,
    names: tuple[str, ...],
    paths: tuple[str, ...],
    max_rate: float | None,
    dry_run: bool,
    detach: bool,
    only_missing: bool,
    yes_duplicates: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send a range of the journal again, beside the live stream, whose checkpoint stays where it is.

    All operations, with the original ids wherever the mappings make the same event. It ends at the destination's checkpoint
    at the latest: what lies beyond, the live stream delivers.
    """
    from cdc_tracker import mapping  # noqa: PLC0415
    from cdc_tracker.cli import jobs, stores  # noqa: PLC0415
    from cdc_tracker.cli.follow_job import follow_jobs  # noqa: PLC0415
    from cdc_tracker.delivery.jobs.spec import replay_spec  # noqa: PLC0415
    from cdc_tracker.delivery.points import range_of  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    config = stores.load_config(invocation)
    operations.named.destination(config, destination)
    if only_missing:
        outlook.has_sent_ledger(config, destination)
    files = [file for path in paths for file in (config.mapping_paths if path == CURRENT else [_existing(path)])]
    texts = mapping.texts(files)
    mappings = mapping.load_texts(texts)
    keys = _keys(config, destination, mappings, names) if names else None
    with stores.opened_state(config) as state, stores.opened_journal(config) as journal:
        record = operations.named.source(config, state)
        checkpoint = state.checkpoints.get(record.name, destination)
        if checkpoint is None:
            raise Stop(
                f"The destination {destination!r} has no checkpoint: nothing was ever delivered to it.",
                hint="`start: earliest` in its configuration begins with all that the journal holds.",
            )
        after, upto = range_of(journal, start, end, checkpoint.position)
        pipeline = assemble.build_pipeline(config, record, destination, mappings, only=keys)
        plan = outlook.outlook(config, state, destination, pipeline, journal, after, upto, only_missing=only_missing)
        figures = {"destination": destination, "depth": "journal", "from": str(after), "to": str(upto), **plan.figures()}
        if not as_json:
            output.say(f"{destination}: {output.plural(plan.found.sent, 'event')} from {after} to {upto} would go again.")
            plan.tell()
        if not dry_run:
            plan.agree(f"Send them to {destination}?", yes=yes, duplicates=yes_duplicates)
            spec = replay_spec(after, upto, events=keys, texts=texts, only_missing=only_missing, max_rate=max_rate)
            total = plan.found.events.total() + plan.found.left_out + plan.found.rejections.total()
            job = state.jobs.create(record.name, destination, "replay", spec, needs=after, total=total)
            journal.wake(destination)
            figures["job"] = job.id
        if as_json:
            output.emit(figures)
        elif not dry_run:
            jobs.say_queued([job.id])
            if not detach:
                follow_jobs(config, state, [job.id])


def _keys(config: Config, destination: str, mappings: Mappings, names: tuple[str, ...]) -> list[str]:
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    if config.destinations[destination].requirements.raw:
        return operations.named.raw_events(assemble.captured_tables(config, mappings), names)
    return operations.named.events(mappings.all, names)


def _existing(path: str) -> Path:
    found = Path(path)
    if not found.exists():
        raise click.BadParameter(f"there is no file or folder {path!r}", param_hint="--mappings")
    return found
