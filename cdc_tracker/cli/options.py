"""Options that several commands share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cdc_tracker.delivery.points import Target

POINT = 'An LSN, an ISO time, how long ago ("2h"), or "earliest".'

events = click.option("--events", "names", multiple=True, metavar="NAME", help="Only this event, by key or name. Repeatable.")
only_missing = click.option("--only-missing", is_flag=True, help="Hold back events that the destination's sent_ledger has.")
yes_duplicates = click.option("--yes-duplicates", is_flag=True, help="Also send events that it will then have twice.")


def point(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Target | None:
    """The callback of an option that names a point in history."""
    if value is None:
        return None
    from cdc_tracker.delivery.points import parse_target  # noqa: PLC0415  it reads journals, too: --help is quick without

    try:
        return parse_target(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def moment(context: click.Context, parameter: click.Parameter, value: str | None) -> Target | None:
    """The callback of an option that names a time: for history that is not in the journal, and so has no LSN."""
    found = point(context, parameter, value)
    if found is not None and found.time_us is None:
        raise click.BadParameter("expected an ISO time (2026-01-31T12:00:00Z) or how long ago (30d)")
    return found


def hour(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    """The callback of an option that names an hour of the ledger: in hours since the Unix epoch."""
    from cdc_tracker.delivery.points import parse_since  # noqa: PLC0415

    try:
        return parse_since(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
