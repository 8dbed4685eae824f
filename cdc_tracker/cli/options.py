"""What part of history a command is for, as its options name it: points in it, and events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cdc_tracker.delivery.points import Target, parse_target
from cdc_tracker.documents import nearest
from cdc_tracker.model import RAW

if TYPE_CHECKING:
    from cdc_tracker.mapping import Mapping

POINT = 'An LSN, an ISO time, how long ago ("2h"), or "earliest".'

events = click.option("--events", "names", multiple=True, metavar="NAME", help="Only this event, by key or name. Repeatable.")


def point(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Target | None:
    """The callback of an option that names a point in history."""
    if value is None:
        return None
    try:
        return parse_target(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def moment(context: click.Context, parameter: click.Parameter, value: str | None) -> Target | None:
    """The callback of an option that names a time: for what is not in the journal, and so has no LSN."""
    found = point(context, parameter, value)
    if found is not None and found.time_us is None:
        raise click.BadParameter("expected an ISO time (2026-01-31T12:00:00Z) or how long ago (30d)")
    return found


def keys_of(mappings: Sequence[Mapping], names: Sequence[str]) -> list[str]:
    """The keys of the mappings that are named by key or name; all where none is given. Raises UsageError for an unknown one."""
    known = dict.fromkeys(text for mapping in mappings for text in (mapping.key, mapping.name))
    for name in names:
        if name not in known:
            raise click.UsageError(f"no mapping makes an event {name!r}{nearest(name, list(known))}")
    found = (mapping.key for mapping in mappings if not names or mapping.key in names or mapping.name in names)
    return list(dict.fromkeys(found))


def raw_keys_of(tables: Sequence[str], names: Sequence[str]) -> list[str]:
    """The same of a destination that gets raw changes: by table, or by `raw:TABLE` as the ledger has it."""
    known = {text: f"{RAW}:{table}" for table in tables for text in (table, f"{RAW}:{table}")}
    for name in names:
        if name not in known:
            raise click.UsageError(f"no table {name!r} is captured{nearest(name, list(known))}")
    return list(dict.fromkeys(known[name] for name in names))
