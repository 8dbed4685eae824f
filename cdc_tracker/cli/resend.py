"""`rewind` and `replay`: history of the journal sent again, after an estimate of what that does at the destination."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, output
from cdc_tracker.cli.jobs import queued
from cdc_tracker.times import for_display
from cdc_tracker.units import format_duration, plural

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target
    from cdc_tracker.operations.estimate import DestinationEstimate

_AT_ONCE = "The running worker goes back at once."
_LATER = "No worker is delivering to it now: the rewind is applied when `cdc-tracker run` starts."
_COUNTING = "Counting the events of this range"
CURRENT = "current"


@click.command()
@click.argument("destination")
@click.option("--to", "target", required=True, callback=options.point, help=options.POINT)
@click.option("--dry-run", is_flag=True, help="Only show what would be sent again.")
@options.only_missing
@options.yes_duplicates
@output.yes
@output.as_json
@click.pass_obj
def rewind(
    invocation: Invocation,
    destination: str,
    target: Target,
    dry_run: bool,
    only_missing: bool,
    yes_duplicates: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Move a destination's checkpoint back, so that the events after it are sent again.

    The changes are mapped again with the present mappings; events that come out the same have the same ids. A worker may be
    running. A rewind reaches back as far as the journal does.

    First it is shown what the destination will do with the events. If it does not recognize some of them, it will have them
    twice, and that takes --yes-duplicates, also with --yes.
    """
    with invocation.state() as state, invocation.journal() as journal:
        with output.progress(_COUNTING) as advance:
            again = operations.resend.plan_rewind(
                invocation.config, state, journal, destination, target, only_missing=only_missing, advance=advance
            )
        position, to = again.counts.upto, again.counts.after
        shown = {"destination": destination, "from": str(position), "to": str(to), **_as_json(again)}
        if not as_json:
            output.say(f"{destination}: from {position} back to {to}, {_events(again)} would be sent again.")
            _say(again)
        if not dry_run:
            accepted = output.agree(f"Rewind {destination} to {to}?", _twice(again), yes=yes, duplicates=yes_duplicates)
            at_once = operations.resend.request_rewind(state, journal, again, accept_duplicates=accepted)
            shown["applied"] = _AT_ONCE if at_once else _LATER
    if as_json:
        output.emit(shown)
    elif not dry_run:
        output.say(shown["applied"])


@click.command()
@click.argument("destination")
@click.option("--from", "start", required=True, callback=options.point, help=options.POINT)
@click.option("--to", "end", callback=options.point, help="Where to end, in the same forms (default: the checkpoint).")
@options.events
@click.option(
    "--mappings",
    "paths",
    multiple=True,
    default=(CURRENT,),
    show_default=True,
    metavar="PATH",
    help="The mappings: a file or folder, or `current` for those in force. Repeatable.",
)
@click.option("--max-rate", type=click.FloatRange(min=0, min_open=True), help="Events a second at most.")
@click.option("--dry-run", is_flag=True, help="Only show what would be sent again.")
@click.option("--detach", is_flag=True, help="Leave the job to the worker, and do not show its progress.")
@options.only_missing
@options.yes_duplicates
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

    All operations, with the original ids wherever the mappings make the same event. The range ends at the destination's
    checkpoint at the latest: the live stream delivers what is beyond.
    """
    files = None if paths == (CURRENT,) else _files(invocation, paths)
    with invocation.state() as state, invocation.journal() as journal:
        with output.progress(_COUNTING) as advance:
            plan = operations.resend.plan_replay(
                invocation.config,
                state,
                journal,
                destination,
                start,
                end,
                events=names,
                files=files,
                only_missing=only_missing,
                advance=advance,
            )
        again = plan.estimate
        after, upto = str(again.counts.after), str(again.counts.upto)
        shown = {"destination": destination, "depth": "journal", "from": after, "to": upto, **_as_json(again)}
        if not as_json:
            output.say(f"{destination}: {_events(again)} from {after} to {upto} would be sent again.")
            _say(again)
        jobs = []
        if not dry_run:
            accepted = output.agree(f"Send them to {destination}?", _twice(again), yes=yes, duplicates=yes_duplicates)
            job = operations.resend.start_replay(state, journal, plan, accept_duplicates=accepted, max_rate=max_rate)
            jobs.append(job.id)
            shown["job"] = job.id
        if as_json:
            output.emit(shown)
        else:
            queued(invocation.config, state, jobs, follow=not detach)


def _files(invocation: Invocation, paths: tuple[str, ...]) -> list[Path]:
    return [file for path in paths for file in (invocation.config.mapping_paths if path == CURRENT else [_existing(path)])]


def _existing(path: str) -> Path:
    found = Path(path)
    if not found.exists():
        raise click.BadParameter(f"there is no file or folder {path!r}", param_hint="--mappings")
    return found


# The estimate, and the question before it is sent.


def _as_json(estimate: DestinationEstimate) -> dict[str, Any]:
    """Durations are seconds; null: unlimited."""
    counts, kind = estimate.counts, estimate.kind
    return {
        "events": counts.events.total(),
        "by_mapping": dict(sorted(counts.events.items())),
        "rejections": counts.rejections.total(),
        "rejected_by_mapping": dict(sorted(counts.rejections.items())),
        "rejected_by_reason": dict(sorted(counts.reasons.items())),
        "oldest": for_display(counts.oldest) if counts.oldest else None,
        "newest": for_display(counts.newest) if counts.newest else None,
        "sent": counts.sent,
        "withheld": counts.withheld,
        "left_out": counts.left_out,
        "dry_run": estimate.dry_run,
        "outside_window": counts.outside_window,
        "past_age": counts.past_age,
        "dedupe_window": output.finite(kind.dedupe_window),
        "age_limit": output.finite(kind.age_limit),
        "guarantee": kind.guarantee,
        "repeats": kind.duplicate_handling,
        "only_missing": estimate.only_missing,
        "sent_ledger_since": for_display(estimate.sent_since) if estimate.sent_since else None,
    }


def _events(estimate: DestinationEstimate) -> str:
    return plural(estimate.counts.sent, "event")


def _say(estimate: DestinationEstimate) -> None:
    """Print the counts by mapping, then what the destination does with the events."""
    counts, kind = estimate.counts, estimate.kind
    rows = [
        (mapping, f"{counts.events[mapping]:,}", f"{counts.rejections[mapping]:,}")
        for mapping in sorted(counts.events | counts.rejections)
    ]
    if rows:
        output.console().print(output.table(("mapping", "events", "rejected"), rows, right=("events", "rejected")))
    left_out = plural(counts.left_out, "event")
    if estimate.dry_run:
        output.warn(f"The destination is in a dry run: {left_out} would be counted as suppressed, and none sent.")
    elif counts.left_out:
        output.say(f"Its settings leave out {left_out} more.")
    if estimate.only_missing:
        output.say(_withheld(estimate))
    output.say(f"An event that it already has: this destination {kind.duplicate_handling}.")
    if estimate.duplicates:
        output.warn(f"{estimate.duplicates}.")
    if counts.past_age:
        number, limit = plural(counts.past_age, "event"), format_duration(kind.age_limit)
        output.warn(f"{number} older than {limit}, by their own time: it rejects such events, or changes their time.")


def _twice(estimate: DestinationEstimate) -> str:
    """The question whether to send duplicates; "" if there would be none."""
    number = estimate.counts.outside_window
    return f"Send {plural(number, 'event')} that {estimate.destination} may then have twice?" if number else ""


def _withheld(estimate: DestinationEstimate) -> str:
    if estimate.sent_since is None:
        return "The sent-ledger is still empty: it holds nothing back."
    held = plural(estimate.counts.withheld, "event")
    return f"The sent-ledger holds back {held} of these. It records what was delivered since {for_display(estimate.sent_since)}."
