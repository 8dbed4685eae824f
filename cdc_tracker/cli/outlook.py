"""What a command that sends history says before it starts, and asks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker.cli import output
from cdc_tracker.errors import Stop
from cdc_tracker.units import format_duration

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.destinations.base import Destination
    from cdc_tracker.journal import Journal
    from cdc_tracker.model import Position
    from cdc_tracker.operations.estimate import ReplayEstimate
    from cdc_tracker.pipeline import Pipeline
    from cdc_tracker.state import State

only_missing = click.option("--only-missing", is_flag=True, help="Hold back what the destination's sent_ledger holds.")
yes_duplicates = click.option("--yes-duplicates", is_flag=True, help="Send also what the destination will then have twice.")


@dataclass(frozen=True)
class EstimateView:
    """A replay estimate, and how the destination treats the events. `since`: since when the sent-ledger is kept."""

    destination: str
    kind: type[Destination]
    found: ReplayEstimate
    only_missing: bool
    since: int | None
    dry_run: bool

    def figures(self) -> dict[str, Any]:
        """For JSON. Durations are seconds; null: without end."""
        found, kind = self.found, self.kind
        return {
            "events": found.events.total(),
            "by_mapping": dict(sorted(found.events.items())),
            "rejections": found.rejections.total(),
            "rejected_by_mapping": dict(sorted(found.rejections.items())),
            "rejected_by_reason": dict(sorted(found.reasons.items())),
            "oldest": output.moment(found.oldest) if found.oldest else None,
            "newest": output.moment(found.newest) if found.newest else None,
            "sent": found.sent,
            "withheld": found.withheld,
            "left_out": found.left_out,
            "dry_run": self.dry_run,
            "outside_window": found.outside_window,
            "past_age": found.past_age,
            "dedupe_window": _seconds(kind.dedupe_window),
            "age_limit": _seconds(kind.age_limit),
            "guarantee": kind.guarantee,
            "repeats": kind.duplicate_handling,
            "only_missing": self.only_missing,
            "sent_ledger_since": output.moment(self.since) if self.since else None,
        }

    def tell(self) -> None:
        """The counts by mapping, then what the destination does with the events."""
        found, kind = self.found, self.kind
        rows = [
            (mapping, f"{found.events[mapping]:,}", f"{found.rejections[mapping]:,}")
            for mapping in sorted(found.events | found.rejections)
        ]
        if rows:
            output.console().print(output.table(("mapping", "events", "rejected"), rows, right=("events", "rejected")))
        if self.dry_run:
            _warn(f"It is in a dry run: {output.plural(found.left_out, 'event')} would be counted as suppressed, and none sent.")
        elif found.left_out:
            output.say(f"{output.plural(found.left_out, 'event')} more its own settings leave out.")
        if self.only_missing:
            output.say(self._withheld())
        output.say(f"An event that it already has: this destination {kind.duplicate_handling}.")
        if found.outside_window:
            _warn(f"{self._outside()}.")
        if found.past_age:
            number, limit = output.plural(found.past_age, "event"), format_duration(kind.age_limit)
            _warn(f"{number} older than {limit}, by their own time: it refuses such, or changes their time.")

    def agree(self, question: str, *, yes: bool, duplicates: bool) -> None:
        """Go on, or leave. What will be there twice is asked for by its number, and `yes` alone does not answer that."""
        if self.found.outside_window and not duplicates:
            if yes:
                raise Stop(
                    f"{self.destination}: {self._outside()}. Nothing was changed.",
                    hint="--yes-duplicates sends them all the same. --only-missing holds back what was delivered, "
                    "where the destination keeps a `sent_ledger`.",
                )
            number = output.plural(self.found.outside_window, "event")
            twice = f"Send {number} that {self.destination} may then have twice?"
            output.ask(twice, yes=False, options="--yes and --yes-duplicates")
        output.ask(question, yes=yes)

    def _outside(self) -> str:
        """Without its full stop."""
        number = output.plural(self.found.outside_window, "event")
        window = self.kind.dedupe_window
        if not window:
            why = "it does not know an event again by its id"
        else:
            why = f"committed more than {format_duration(window)} ago, and so long only does it know an event again by its id"
        unknown = ", and the sent-ledger does not reach back so far" if self.only_missing else ""
        return f"{number} it will have twice, if it has them now: {why}{unknown}"

    def _withheld(self) -> str:
        if self.since is None:
            return "The sent-ledger holds nothing yet: it holds back nothing."
        held = output.plural(self.found.withheld, "event")
        since = f"It knows what was delivered since {output.moment(self.since)}."
        return f"{held} of these it has, by the sent-ledger, and they are held back. {since}"


def outlook(
    config: Config,
    state: State,
    destination: str,
    pipeline: Pipeline,
    journal: Journal,
    after: Position,
    upto: Position,
    *,
    only_missing: bool = False,
) -> EstimateView:
    """Estimates a range, with a progress line on the terminal."""
    from cdc_tracker.destinations import registry  # noqa: PLC0415
    from cdc_tracker.operations.estimate import estimate_replay  # noqa: PLC0415

    settings = config.destinations[destination]
    kind = registry.described(settings)
    source = config.source.name
    since = state.sent_ids.since(source, destination) if only_missing else None
    with output.progress("Counting the events of this range") as advance:
        found = estimate_replay(
            pipeline,
            journal,
            after,
            upto,
            now_us=time.time_ns() // 1000,
            dedupe_window=kind.dedupe_window,
            age_limit=kind.age_limit,
            already_sent=partial(state.sent_ids.find, source, destination) if only_missing else None,
            sent_since=since,
            advance=advance,
        )
    return EstimateView(destination, kind, found, only_missing, since, settings.dry_run)


def has_sent_ledger(config: Config, destination: str) -> None:
    """Raises Stop where --only-missing has nothing to go by."""
    if config.destinations[destination].sent_ledger is None:
        raise Stop(
            f"The destination {destination!r} keeps no sent-ledger, so it is not known what it was sent: nothing was changed.",
            hint=f"Set destinations.{destination}.sent_ledger in {config.path} (90d, say): it knows what goes from then on.",
        )


def _seconds(duration: float) -> float | None:
    return None if math.isinf(duration) else duration


def _warn(text: str) -> None:
    output.say("⚠ ", fg="yellow", nl=False)
    output.say(text)
