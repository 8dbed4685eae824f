"""The `format` setting of destinations that take any JSON: events, or raw changes as Debezium envelopes."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cdc_tracker.destinations.base import NOTHING_MORE, DestinationSettings, Requirements
from cdc_tracker.destinations.support.name_templates import check_raw_template


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
