"""Destinations that take any JSON: the `format` setting, for events or raw changes (Debezium envelopes), and lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cdc_tracker.destinations.base import NOTHING_MORE, DestinationSettings, Requirements
from cdc_tracker.destinations.support.name_templates import check_raw_template
from cdc_tracker.model import Event


class FormatSettings(DestinationSettings):
    """`template`: the setting that holds a name template, if there is one."""

    template: ClassVar[str] = ""

    format: Literal["event", "debezium"] = Field(
        default="event", description="event, or debezium: each captured change itself, independent of the mappings"
    )

    @property
    def requirements(self) -> Requirements:
        return Requirements(raw=True) if self.format == "debezium" else NOTHING_MORE

    @model_validator(mode="after")
    def _of_changes(self) -> Self:
        if self.format != "debezium":
            return self
        for name in ("events", "properties"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` chooses among events, and `format: debezium` sends changes: remove it")
        if self.template:
            try:
                check_raw_template(getattr(self, self.template))
            except ValueError as error:
                raise ValueError(f"`{self.template}`: {error}") from None
        return self


def as_lines(events: Sequence[Event]) -> bytes:
    """Each event's body and a newline. Line breaks within a body become spaces; its values stay the same."""
    bodies = [event.body for event in events]
    bodies.append(b"")
    data = b"\n".join(bodies)
    if data.count(b"\n") != len(events):
        # A `json` column keeps its whitespace, and an unescaped line break in JSON is always whitespace.
        data = b"\n".join([body.replace(b"\n", b" ") for body in bodies])
    return data
