"""`backfill`: events of a table's present rows, for history that is older than the journal."""

from __future__ import annotations

import math
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, outlook, output
from cdc_tracker.errors import Stop
from cdc_tracker.units import format_duration, format_size

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.delivery.points import Target
    from cdc_tracker.mapping.schema.declared import Mapping
    from cdc_tracker.state import State

WHAT_IT_IS = (
    "It reads rows as they are now: updates and deletes of the past are not in them, and each event is marked with "
    "context.source.snapshot."
)


@click.command()
@click.argument("event")
@click.option("--destination", "names", multiple=True, required=True, help="Where to send; may be given several times.")
@click.option("--from", "start", callback=options.moment, help='Only events since then: an ISO time, or how long ago ("30d").')
@click.option("--to", "end", callback=options.moment, help="Only events before then.")
@click.option("--where", help="SQL that limits the rows, on top of the mapping's own.")
@click.option("--order", type=click.Choice(["asc", "desc"]), default="asc", show_default=True, help="Of the table's key.")
@click.option("--max-rate", type=click.FloatRange(min=0, min_open=True), help="Events a second at most.")
@click.option("--chunk", type=click.IntRange(1, 100_000), default=5_000, show_default=True, help="Rows read at once at most.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--detach", is_flag=True, help="Leave it to the worker, and do not show its progress.")
@outlook.yes_duplicates
@output.yes
@output.as_json
@click.pass_obj
def backfill(
    invocation: Invocation,
    /,
    event: str,
    names: tuple[str, ...],
    start: Target | None,
    end: Target | None,
    dry_run: bool,
    detach: bool,
    yes_duplicates: bool,
    yes: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Send the event that a mapping makes of each of its table's rows, for what is older than the journal.

    The mapping declares `backfill`, `id` and `timestamp`. Rows are read in chunks by the table's key, beside the live stream;
    what the stream sends too has the same id, and a later change never loses to an older read.
    """
    from cdc_tracker.cli import jobs, stores  # noqa: PLC0415
    from cdc_tracker.cli.follow_job import follow_jobs  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    config = stores.load_config(invocation)
    for name in names:
        operations.named.destination(config, name)
    mappings = assemble.load_mappings(config)
    keys = operations.named.events(mappings.all, [event])
    period = (start.time_us if start else None, end.time_us if end else None)
    with stores.opened_state(config) as state:
        source = operations.named.source(config, state).name
        plans = [
            _plan(config, state, source, mapping, name, period, asked)
            for mapping in mappings.all
            if mapping.key in keys
            for name in names
        ]
        for plan in plans:
            if not as_json:
                _tell(plan)
            if not dry_run:
                _agree(plan, yes=yes, duplicates=yes_duplicates)
        if not dry_run:
            with stores.opened_journal(config) as journal:
                for plan in plans:
                    job = state.jobs.create(source, plan["destination"], "backfill", plan.pop("spec"), total=plan["rows"])
                    journal.wake(plan["destination"])
                    plan["job"] = job.id
        if as_json:
            output.emit([{key: value for key, value in plan.items() if key != "spec"} for plan in plans])
        elif not dry_run:
            jobs.say_queued([plan["job"] for plan in plans])
            if not detach:
                follow_jobs(config, state, [plan["job"] for plan in plans])


def _plan(
    config: Config,
    state: State,
    source: str,
    mapping: Mapping,
    name: str,
    period: tuple[int | None, int | None],
    asked: dict[str, Any],
) -> dict[str, Any]:
    """Everything that can be known before anything is read. Raises what speaks against it."""
    from cdc_tracker.delivery.jobs.spec import backfill_spec, conditions_of, unfit  # noqa: PLC0415
    from cdc_tracker.destinations import registry  # noqa: PLC0415
    from cdc_tracker.mapping import texts  # noqa: PLC0415
    from cdc_tracker.sources.postgres.connection import connect  # noqa: PLC0415
    from cdc_tracker.sources.postgres.snapshot import extent, usable_key  # noqa: PLC0415

    settings = config.destinations[name]
    if settings.requirements.raw:
        raise Stop(
            f"The destination {name!r} gets changes as they were captured, and a backfill makes events of rows that are there.",
            hint="What the journal holds can be sent again: `cdc-tracker replay`.",
        )
    if (why := unfit(mapping, name)) is not None:
        raise why
    kind = registry.described(settings)
    where, conditions = conditions_of(mapping, asked["where"], *period)
    with closing(connect(config.source.url.get_secret_value())) as connection:
        key = usable_key(connection, mapping.table)
        size = extent(connection, mapping.table, where, conditions)
    only_missing = settings.sent_ledger is not None
    spec = backfill_spec(
        mapping,
        texts=texts(config.mapping_paths),
        where=asked["where"],
        order=asked["order"],
        from_us=period[0],
        to_us=period[1],
        only_missing=only_missing,
        max_rate=asked["max_rate"],
        chunk=asked["chunk"],
    )
    return {
        "event": mapping.key,
        "destination": name,
        "table": mapping.table,
        "key": list(key.columns),
        "rows": size.rows,
        "bytes": size.bytes,
        "depth": "table",
        "guarantee": kind.guarantee,
        "repeats": kind.duplicate_handling,
        "only_missing": only_missing,
        "dry_run": settings.dry_run,
        "may_be_twice": 0 if only_missing else _delivered_before(state, source, mapping.key, name, kind.dedupe_window),
        "age_limit_seconds": kind.age_limit if math.isfinite(kind.age_limit) else None,
        "from": output.moment(period[0]) if period[0] is not None else None,
        "spec": spec,
    }


def _delivered_before(state: State, source: str, key: str, destination: str, window: float) -> int:
    """Events of the mapping that the destination has, and would not know again by their ids."""
    if math.isinf(window):
        return 0
    until = (time.time() - window) // 3600
    rows = state.ledger.rows(source, destination=destination, mapping=key)
    return sum(row.delivered + row.assumed for row in rows if row.hour <= until)


def _tell(plan: dict[str, Any]) -> None:
    rows = f"about {output.plural(plan['rows'], 'row')} ({format_size(plan['bytes'])})"
    output.say(f"{plan['event']} → {plan['destination']}: {rows} of {plan['table']}, by {', '.join(plan['key'])}.")
    output.say(WHAT_IT_IS)
    if plan["dry_run"]:
        output.say("The destination is in a dry run: events would be counted as suppressed, and none sent.")
    if plan["only_missing"]:
        output.say("What its sent-ledger knows is held back.")
    else:
        output.say(f"An event that it already has: this destination {plan['repeats']}.")
    limit = plan["age_limit_seconds"]
    if limit is not None:
        output.say(
            f"It takes nothing older than {format_duration(limit)}: such events are rejected and parked. --from leaves them out."
        )


def _agree(plan: dict[str, Any], *, yes: bool, duplicates: bool) -> None:
    """Go on, or leave. What may be there twice is asked for by its number, and `yes` alone does not answer that."""
    number = output.plural(plan["may_be_twice"], "event")
    said = f"{plan['destination']} was delivered {number} of {plan['event']} that it does not know again by their ids"
    if plan["may_be_twice"] and not duplicates:
        if yes:
            raise Stop(
                f"{said}: those whose rows are read it will have twice. Nothing was changed.",
                hint="--yes-duplicates sends them all the same; --where or --to can leave them out; a `sent_ledger` at the "
                "destination holds back what it delivers from then on.",
            )
        output.ask(f"{said}. Send all the same?", yes=False, options="--yes and --yes-duplicates")
    output.ask(f"Read {plan['table']} for {plan['destination']}?", yes=yes)
