"""`diff`: what other mappings would have made of a past range of the journal. Sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, options, output
from cdc_tracker.times import for_display
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from collections import Counter

    from cdc_tracker.delivery.points import Target
    from cdc_tracker.operations.diff import Cell, Difference, EventDifference, Kind, Sample

_MAPPINGS = "The other mappings, a file or folder. Repeatable."
_COUNTS = ("added", "removed", "changed", "unchanged")
_LOOKS: dict[Kind, tuple[str, str]] = {
    "added": ("+", "green"),
    "removed": ("-", "red"),
    "changed": ("~", "yellow"),
    "rejected": ("✗", "red"),
}
_WIDEST = 100  # characters of a value on one line
_ABSENT = "(absent)"


@click.command()
@click.option("--mappings", "paths", multiple=True, required=True, type=click.Path(path_type=Path, exists=True), help=_MAPPINGS)
@click.option("--from", "start", required=True, callback=options.point, help=options.POINT)
@click.option("--to", "end", callback=options.point, help="Where to end, in the same forms (default: the journal's end).")
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
    with (
        invocation.state(to_read=True) as state,
        invocation.journal(to_read=True) as journal,
        output.progress("Comparing") as advance,
    ):
        found = operations.diff.compare(
            invocation.config,
            state,
            journal,
            paths,
            start,
            end,
            destination=destination,
            events=names,
            samples=samples,
            advance=advance,
        )
    if as_json:
        _emit(found, destination)
    else:
        _say(found)


def _say(found: Difference) -> None:
    """Print the counts of every event, then samples side by side."""
    changes = plural(found.changes, "change")
    output.say(f"From {found.after} to {found.upto} the journal has {changes} of the tables that these mappings read.")
    rows = [(key, *_counted(each)) for key, each in found.events.items()]
    if rows:
        columns = ("event", *_COUNTS, "rejected before", "after")
        output.console().print(output.table(columns, rows, right=columns[1:]))
    for key, each in found.events.items():
        if each.differs:
            _say_event(key, each)
    for sentence in found.missing:
        output.warn(sentence)
    if not found.differs:
        output.say("Both mappings make the same of it.")
    output.say("Nothing was sent.")


def _counted(each: EventDifference) -> list[str]:
    numbers = [*(getattr(each, name) for name in _COUNTS), each.before.total(), each.after.total()]
    return [f"{number:,}" if number else "–" for number in numbers]


def _say_event(key: str, each: EventDifference) -> None:
    output.say(key, bold=True)
    if each.paths:
        output.say(f"  changed in {_listed(each.paths)}")
    if each.renamed:
        output.say("  ⚠ ", fg="yellow", nl=False)
        of = plural(each.renamed, "event")
        output.say(f"{of} would have another id: a destination that has the old ones would have both.")
    if each.before != each.after:
        output.say(f"  rejected before: {_listed(each.before)}; after: {_listed(each.after)}")
    for samples in each.samples.values():
        for sample in samples:
            _say_sample(sample)
    output.say()


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({number:,})" for name, number in counts.most_common(8)) or "none"


def _say_sample(sample: Sample) -> None:
    sign, colour = _LOOKS[sample.kind]
    output.say(f"  {sign} {sample.kind}", fg=colour, nl=False)
    output.say(f"  {for_display(sample.committed_at)}  at {sample.position}  {sample.message_id}")
    if sample.reason:
        place = f"{sample.field}: " if sample.field else ""
        output.say(f"      {sample.reason}: {place}{sample.detail}")
    width = max((len(cell.path) for cell in sample.cells), default=0)
    for cell in sample.cells:
        output.say(f"      {cell.path:{width}}  ", nl=False)
        _say_cell(cell, sample.kind)


def _say_cell(cell: Cell, kind: Kind) -> None:
    old, new = _short(cell.old), _short(cell.new)
    if kind != "changed":
        output.say(new if kind == "added" else old)
        return
    output.say(old, fg="red", nl=False)
    output.say(" → ", nl=False)
    output.say(new, fg="green")


def _short(text: str | None) -> str:
    if text is None:
        return _ABSENT
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"


def _emit(found: Difference, destination: str | None) -> None:
    """Print one JSON document. Values are as in the events; a personal one is masked and has `hidden`."""
    document = {
        "from": str(found.after),
        "to": str(found.upto),
        "destination": destination,
        "changes": found.changes,
        "differs": found.differs,
        "missing": found.missing,
        "events": [_event(key, each) for key, each in found.events.items()],
    }
    output.say(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def _event(key: str, each: EventDifference) -> dict[str, object]:
    return {
        "event": key,
        **{name: getattr(each, name) for name in _COUNTS},
        "renamed": each.renamed,
        "rejected": {"before": dict(each.before), "after": dict(each.after)},
        "paths": dict(each.paths.most_common()),
        "samples": [_sample(sample) for samples in each.samples.values() for sample in samples],
    }


def _sample(sample: Sample) -> dict[str, object]:
    found: dict[str, object] = {
        "kind": sample.kind,
        "position": str(sample.position),
        "committed_at": for_display(sample.committed_at),
        "message_id": sample.message_id,
    }
    if sample.reason:
        return found | {"reason": sample.reason, "field": sample.field, "detail": sample.detail}
    return found | {"values": [_value(cell) for cell in sample.cells]}


def _value(cell: Cell) -> dict[str, object]:
    sides = {name: msgspec.Raw(text.encode()) for name, text in (("old", cell.old), ("new", cell.new)) if text is not None}
    return {"path": cell.path, **sides, **({"hidden": True} if cell.hidden else {})}
