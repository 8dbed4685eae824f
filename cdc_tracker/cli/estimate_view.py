"""The estimate of sending a range again, as JSON and as text, and the questions before it is sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cdc_tracker.cli import output
from cdc_tracker.times import for_display
from cdc_tracker.units import format_duration, plural

if TYPE_CHECKING:
    from cdc_tracker.operations.estimate import DestinationEstimate


def as_json(estimate: DestinationEstimate) -> dict[str, Any]:
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
        "dedupe_window": seconds(kind.dedupe_window),
        "age_limit": seconds(kind.age_limit),
        "guarantee": kind.guarantee,
        "repeats": kind.duplicate_handling,
        "only_missing": estimate.only_missing,
        "sent_ledger_since": for_display(estimate.sent_since) if estimate.sent_since else None,
    }


def say(estimate: DestinationEstimate) -> None:
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


def twice(estimate: DestinationEstimate) -> str:
    """The question whether to send duplicates; "" if there would be none."""
    number = estimate.counts.outside_window
    return f"Send {plural(number, 'event')} that {estimate.destination} may then have twice?" if number else ""


def seconds(duration: float) -> float | None:
    """For JSON, which has no infinity."""
    return None if math.isinf(duration) else duration


def _withheld(estimate: DestinationEstimate) -> str:
    if estimate.sent_since is None:
        return "The sent-ledger is still empty: it holds nothing back."
    held = plural(estimate.counts.withheld, "event")
    return f"The sent-ledger holds back {held} of these. It records what was delivered since {for_display(estimate.sent_since)}."
