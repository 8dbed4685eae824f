"""`explain`: why events came or did not. Sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, explain_view, options, output
from cdc_tracker.model import parse_lsn

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target


def _key(_ctx: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for (column, equals, _), text in zip(pairs, given, strict=True):
        if not column or not equals:
            raise click.BadParameter(f"expected COLUMN=VALUE, such as id=42, and not {text!r}")
    return {column.strip(): value for column, _, value in pairs}


def _place(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int | None] | None:
    if value is None:
        return None
    lsn, plus, ordinal = value.partition("+")
    if plus and not ordinal.isdecimal():
        raise click.BadParameter(f"expected an LSN (16/B374D848) or a position (16/B374D848+0), and not {value!r}")
    try:
        return parse_lsn(lsn), int(ordinal) if plus else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("event")
@click.option("--key", multiple=True, callback=_key, metavar="COLUMN=VALUE", help="Only rows with this value. Repeatable.")
@click.option("--lsn", "place", callback=_place, help="Only the change, transaction or position there.")
@click.option("--from", "start", callback=options.point, help=f"Where to begin (default: earliest). {options.POINT}")
@click.option("--to", "end", callback=options.point, help="Where to end, in the same forms (default: the journal's end).")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="How many changes to show.")
@output.as_json
@click.pass_obj
def explain(
    invocation: Invocation,
    event: str,
    key: dict[str, str],
    place: tuple[int, int | None] | None,
    start: Target | None,
    end: Target | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show why events came or did not: what became of each change of a mapping's table.

    EVENT is a mapping's key or name. Reads the journal with the mappings as they are now; nothing is sent, and a running worker
    is not disturbed. Every change is counted, and the newest of each outcome are shown: the part of `when` that was false with
    the values that it saw, the rejection, or the event and what became of it at each destination. Personal values are not shown.
    """
    if place is not None and (start or end):
        raise click.UsageError("--lsn cannot be combined with --from and --to.")
    lsn, ordinal = place or (None, None)
    with (
        invocation.state(to_read=True) as state,
        invocation.journal(to_read=True) as journal,
        output.progress("Explaining") as advance,
    ):
        found = operations.explain.explain(
            invocation.config,
            state,
            journal,
            event,
            chosen=operations.explain.Chosen(lsn, ordinal, key),
            start=start,
            end=end,
            limit=limit,
            advance=advance,
        )
    if as_json:
        explain_view.emit(found)
    else:
        explain_view.say(found)
