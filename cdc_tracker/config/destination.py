"""The settings that every destination shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cdc_tracker.config.selection import EventSelection, PropertySelection
from cdc_tracker.times import aware, parse_iso
from cdc_tracker.units import Duration


def _start(value: object) -> object:
    """Accepts dates and times as text or objects. A date is its midnight; without a zone it is UTC."""
    if value in ("now", "earliest"):
        return value
    try:
        moment = parse_iso(value.strip()) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    if not isinstance(moment, datetime):
        raise ValueError("expected now, earliest, or an ISO date or time such as 2026-01-31 or 2026-01-31T12:00:00Z")
    return aware(moment)


Start = Annotated[Literal["now", "earliest"] | datetime, BeforeValidator(_start)]
"""Where a destination without a checkpoint begins."""


class Requirements(NamedTuple):
    """What a destination needs beyond mapped events.

    `raw`: every captured change as an event of the type RAW, instead of the events of mappings and outbox. `row_key`:
    Event.row_key. `key_columns`: by table, the columns that identify a row, if its replica identity does not.
    """

    raw: bool = False
    row_key: bool = False
    key_columns: Mapping[str, Sequence[str]] = {}


NOTHING_MORE = Requirements()


class DestinationSettings(BaseModel):
    """Base of every destination's settings. A subclass may override `requirements`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: str
    in_flight: int = Field(default=1, ge=1, le=64, description="requests at once; above 1 order is not kept")
    start: Start = Field(
        default="now",
        description="where a new one begins: now, earliest (the journal's start) or an ISO time; then only rewind moves it",
    )
    sent_ledger: Duration | None = Field(
        default=None, description="how long to remember the ids delivered, for `replay --only-missing`; null: not at all"
    )
    events: EventSelection | None = Field(default=None, description="which events it gets, and under which names")
    properties: PropertySelection | None = Field(default=None, description="which properties and traits, and under which names")
    dry_run: bool = Field(default=False, description="it is sent nothing; its checkpoint moves, and events count as suppressed")

    @property
    def requirements(self) -> Requirements:
        """What the destination needs beyond mapped events. Depends on the settings alone: no destination need be opened."""
        return self.wants

    @property
    def wants(self) -> Requirements:
        """The earlier name of `requirements`, which plugins may override."""
        return NOTHING_MORE
