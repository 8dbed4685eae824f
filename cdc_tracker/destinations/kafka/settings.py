"""The settings of the Kafka destination."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from cdc_tracker.destinations.base import Requirements
from cdc_tracker.destinations.support.formats import FormatSettings
from cdc_tracker.destinations.support.name_templates import check_key, check_raw_key, check_template, literal
from cdc_tracker.units import Duration, Size

_RESERVED = {
    "bootstrap.servers": "set `brokers`",
    "metadata.broker.list": "set `brokers`",
    "transactional.id": "set `transactional_id`",
    "message.timeout.ms": "set `timeout`",
    "delivery.timeout.ms": "set `timeout`",
    "message.max.bytes": "set `event_size`",
    "enable.idempotence": "it is always true",
    "acks": "it is always all",
    "request.required.acks": "it is always all",
    "delivery.report.only.error": "cdc-tracker needs every report",
    "isolation.level": "cdc-tracker sets it",
    "group.id": "cdc-tracker sets it",
}
MOST_CHARACTERS = 249  # characters of a topic's name
_TOPIC = re.compile(rf"(?!\.\.?$)[A-Za-z0-9._-]{{1,{MOST_CHARACTERS}}}")


_Columns = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)]


class KafkaSettings(FormatSettings):
    template: ClassVar[str] = "topic"

    type: Literal["kafka"] = "kafka"
    in_flight: int = Field(default=1, ge=1, le=1, description="always 1: the client keeps several requests under way by itself")
    brokers: str = Field(min_length=1, description="host:port, several separated by commas")
    topic: str = Field(description="a name; {event}, {type}, {schema} and {table} stand for the event's own")
    key: str | None = Field(
        default=None,
        description="user (of events, unless set), row (of changes, unless set), none, or a path such as properties.order_id",
    )
    key_columns: dict[str, _Columns] = Field(
        default_factory=dict, description="for `key: row`: the columns of schema.table, where its replica identity is no key"
    )
    tombstones: bool = Field(
        default=True,
        description="debezium, `key: row`: a message without value after a delete, so that compaction drops the row",
    )
    transactions: bool = Field(default=True, description="exactly once; false: at least once, idempotent, and quicker to be read")
    transactional_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="what the transactional ids begin with: there is one for each source",
    )
    checkpoint_topic: str = Field(default="cdc_tracker_checkpoints", description="where our position is kept; made where missing")
    event_size: Size = Field(default=950_000, ge=1_000, description="the largest event; brokers take about 1 MB by default")
    timeout: Duration = Field(default=30.0, ge=1, le=600, description="for a batch to be taken, and for answers of the cluster")
    config: dict[str, SecretStr] = Field(
        default_factory=dict, description="options of librdkafka, such as security.protocol and sasl.password; never shown"
    )

    @field_validator("topic")
    @classmethod
    def _template(cls, topic: str) -> str:
        cls._topic_name(literal(check_template(topic)))
        return topic

    @field_validator("key")
    @classmethod
    def _key(cls, key: str | None) -> str | None:
        return None if key is None else check_key(key)

    @field_validator("key_columns")
    @classmethod
    def _tables(cls, columns: dict[str, _Columns]) -> dict[str, _Columns]:
        for table in columns:
            if "." not in table:
                raise ValueError(f"{table!r} must be written as schema.table")
        return columns

    @field_validator("checkpoint_topic")
    @classmethod
    def _topic_name(cls, topic: str) -> str:
        if not _TOPIC.fullmatch(topic):
            raise ValueError(f"must be a topic's name: at most {MOST_CHARACTERS} letters, digits, `.`, `_` and `-`")
        return topic

    @field_validator("config", mode="before")
    @classmethod
    def _as_text(cls, config: object) -> object:
        """YAML gives numbers and booleans; librdkafka takes them as text."""
        if not isinstance(config, dict):
            return config
        return {
            key: str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value
            for key, value in config.items()
        }

    @field_validator("config")
    @classmethod
    def _not_reserved(cls, config: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for key in config:
            if key in _RESERVED:
                raise ValueError(f"`{key}` cannot be set here: {_RESERVED[key]}")
        return config

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        raw, by_row = self.format == "debezium", self.keyed_by == "row"
        if raw:
            check_raw_key(self.keyed_by)
        if self.key_columns and not by_row:
            raise ValueError("`key_columns` says what the key of a row is, for `key: row`")
        if "tombstones" in self.model_fields_set and self.tombstones and not (raw and by_row):
            raise ValueError("`tombstones` go with `format: debezium` and `key: row`: another key identifies more than the row")
        return self

    @property
    def keyed_by(self) -> str:
        """`key`, or what it is by default for this format."""
        return self.key or ("row" if self.format == "debezium" else "user")

    @property
    def writes_tombstones(self) -> bool:
        """Whether deletes are followed by tombstones."""
        return self.tombstones and self.format == "debezium" and self.keyed_by == "row"

    @property
    def requirements(self) -> Requirements:
        return Requirements(raw=self.format == "debezium", row_key=self.keyed_by == "row", key_columns=self.key_columns)
