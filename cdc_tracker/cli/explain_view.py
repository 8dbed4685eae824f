"""An explanation as text and as JSON."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import msgspec

from cdc_tracker.cli import change_view, output
from cdc_tracker.model import Event, Rejection, format_lsn
from cdc_tracker.printable import one_line
from cdc_tracker.times import for_display
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from cdc_tracker.mapping import Placed
    from cdc_tracker.operations.explained import Cause, Explained, Explanation, MappingExplained
    from cdc_tracker.operations.receipts import Fate, Stage
    from cdc_tracker.operations.rows import Value

_STAGES: dict[Stage, str] = {
    "sent": "sent: its sent-ledger has the event",
    "passed": "passed: its checkpoint is past the event, and events of this mapping were counted in its hour",
    "pending": "pending",
    "parked": "parked",
    "suppressed": "suppressed",
    "settled": "not parked (any more): its dead letter was retried, or it was sent by an earlier mapping",
    "not_counted": "not sent: its checkpoint has passed the change; the destination or the mapping was added later",
    "not_for_it": "not for it: the mapping's destinations do not name it",
    "raw": "gets changes as they are, and no mapped events",
}
_EARLIER = (
    "Earlier changes cannot be explained; `backfill` makes events of the rows as they are now, for mappings that declare it."
)


def say(found: Explanation) -> None:
    """Print each mapping with the changes shown, and its summary."""
    for problem in found.problems:
        output.warn(str(problem))
    for each in found.mappings:
        _say_mapping(each)
    if found.after is None:
        output.say("The journal is empty: nothing was captured.")
        return
    for gap in found.gaps:
        output.warn(f"The journal was trimmed meanwhile: changes before {gap} may be missing here.")
    output.say(f"From {found.after} to {found.upto}. The journal begins at {for_display(found.begins)}.")
    if found.clipped or any(not each.counts for each in found.mappings):
        output.say(_EARLIER)
    output.say("Explained with the mappings as they are now: what was sent before they changed may differ; `diff` compares.")


def _say_mapping(each: MappingExplained) -> None:
    mapping = each.mapping
    output.say(one_line(mapping.key), bold=True, nl=False)
    output.say(f"  {mapping.where}: {mapping.table}, on {', '.join(mapping.on)}")
    for explained in each.shown:
        _say_change(each, explained)
    if each.changed:
        output.warn(f"{', '.join(each.changed)} last sent events with another content of this file.")
    output.say(summary(each), bold=True)
    if each.uncaptured:
        output.say(f"No mapping is on {' or '.join(each.uncaptured)} of {mapping.table}: the journal need not have such changes.")
    output.say()


def summary(each: MappingExplained) -> str:
    """`1,240 changes, 1,238 not new.state == 'complete', 2 events`. The numbers after the first add up to it."""
    total = each.counts.total()
    if not total:
        return f"The journal has no such change of {each.mapping.table} in this range."
    counted = [f"{number:,} {_cause(each, cause)}" for cause, number in _ordered(each)]
    events = {cause.name: number for cause, number in sorted(each.counts.items()) if cause.kind == "event"}
    named = ", ".join(f"{number:,} {one_line(name)}" for name, number in events.items() if name)
    made = plural(sum(events.values()), "event")
    return ", ".join([plural(total, "change"), *counted, f"{made} ({named})" if named else made])


def _ordered(each: MappingExplained) -> list[tuple[Cause, int]]:
    """All causes but events: operations, then the parts of the condition in order, then rejections."""
    kinds = ("operation", "condition", "rejected")
    found = [item for item in each.counts.items() if item[0].kind in kinds]
    return sorted(found, key=lambda item: (kinds.index(item[0].kind), item[0]))


def _cause(each: MappingExplained, cause: Cause) -> str:
    if cause.kind == "condition":
        return f"not {_operand(each.parts[cause.part])}"
    if cause.kind == "operation":
        return f"on {cause.name} instead of {' or '.join(each.mapping.on)}"
    return f"rejected as {cause.name}{f' ({cause.field})' if cause.field else ''}"


def _operand(part: Placed) -> str:
    """The text of a part as the operand of `not`."""
    text, node = " ".join(part.expression.text.split()), part.expression.node
    bare = not isinstance(node, ast.BoolOp | ast.IfExp | ast.UnaryOp)
    return one_line(text if bare else f"({text})")


def _say_change(each: MappingExplained, explained: Explained) -> None:
    verdict = explained.verdict
    key = "".join(f"  {value.column} = {change_view.short(value.json or '?')}" for value in explained.key)
    output.say(f"{verdict.at}  {verdict.op:8} {verdict.position}{key}")
    if verdict.cause.kind == "operation":
        output.say(f"  ✗ {verdict.op}: the mapping is on {', '.join(each.mapping.on)}")
    if isinstance(verdict.result, Event):
        name = f"{one_line(verdict.cause.name)}  " if verdict.cause.name else ""
        output.say(f"  → {name}{one_line(verdict.result.message_id)}")
    if isinstance(verdict.result, Rejection):
        output.say(change_view.rejected(verdict.result, explained.detail))
    for failed in verdict.failed:
        text = _operand(each.parts[failed.part])
        output.say(f"  ✗ {text}: {one_line(failed.error)}" if failed.error else f"  ✗ not {text}")
    for value in explained.values:
        output.say(f"      {one_line(value.label)} = {change_view.short(value.json) if value.json else f'({value.missing})'}")
    for fate in explained.fates:
        output.say(f"      {fate.destination}: {_fate(fate)}")
    if explained.gone:
        output.say("      (the journal was trimmed meanwhile: its values are gone)")


def _fate(fate: Fate) -> str:
    reason = f" ({fate.reason})" if fate.reason else ""
    return f"{_STAGES[fate.stage]}{reason}{f': {change_view.short(fate.detail)}' if fate.detail else ''}"


def emit(found: Explanation) -> None:
    """Print one JSON document."""
    document = {
        "from": str(found.after) if found.after else None,
        "to": str(found.upto) if found.upto else None,
        "journal_begins": for_display(found.begins) if found.begins else None,
        "clipped": found.clipped,
        "gaps": [str(gap) for gap in found.gaps],
        "problems": [str(problem) for problem in found.problems],
        "mappings": [_mapping(each) for each in found.mappings],
    }
    output.say(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def _mapping(each: MappingExplained) -> dict[str, Any]:
    mapping = each.mapping
    return {
        "mapping": mapping.key,
        "name": mapping.name,
        "where": mapping.where,
        "table": mapping.table,
        "on": list(mapping.on),
        "when": [part.expression.text for part in each.parts],
        "changes": each.counts.total(),
        "counts": [{**_cause_dict(each, cause), "changes": number} for cause, number in sorted(each.counts.items())],
        "summary": summary(each),
        "sent_with_other_mappings": each.changed,
        "uncaptured": each.uncaptured,
        "shown": [_explained(each, explained) for explained in each.shown],
    }


def _cause_dict(each: MappingExplained, cause: Cause) -> dict[str, Any]:
    found: dict[str, Any] = {"outcome": cause.kind}
    if cause.kind == "condition":
        found["not"] = each.parts[cause.part].expression.text
    elif cause.kind == "operation":
        found["op"] = cause.name
    elif cause.kind == "event" and cause.name:
        found["event"] = cause.name
    elif cause.kind == "rejected":
        found |= {"reason": cause.name, "field": cause.field}
    return found


def _explained(each: MappingExplained, explained: Explained) -> dict[str, Any]:
    verdict = explained.verdict
    found: dict[str, Any] = {
        "position": str(verdict.position),
        "lsn": format_lsn(verdict.lsn),
        "at": verdict.at,
        "op": verdict.op,
        "key": {value.column: _raw(value) for value in explained.key},
        **_cause_dict(each, verdict.cause),
        "failed": [{"part": each.parts[failed.part].expression.text, "error": failed.error or None} for failed in verdict.failed],
        "values": {value.label: _raw(value) for value in explained.values if value.json},
        "missing": {value.label: value.missing for value in explained.values if value.missing},
    }
    if isinstance(verdict.result, Rejection):
        found |= {"field": verdict.result.field, "detail": explained.detail}
    if isinstance(verdict.result, Event):
        found["message_id"] = verdict.result.message_id
    fates = [fate._asdict() for fate in explained.fates]
    return found | ({"destinations": fates} if fates else {})


def _raw(value: Value) -> msgspec.Raw | None:
    return msgspec.Raw(value.json.encode()) if value.json else None
