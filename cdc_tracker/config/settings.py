"""The parts of the configuration, but for destinations: source, journal, state, http."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from cdc_tracker.model import split_name, table_name
from cdc_tracker.units import Duration, Size


class OutboxSettings(BaseModel):
    """The outbox table. `debezium` is Debezium's layout: id, aggregatetype, aggregateid, type, payload."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = "cdc_tracker.outbox"
    layout: Literal["cdc_tracker", "debezium"] = "cdc_tracker"
    user_id: str = Field(
        default="aggregateid",
        description="debezium only: the column, or `payload.KEY`, that holds the user id",
    )

    @field_validator("table")
    @classmethod
    def _named(cls, table: str) -> str:
        return table_name(*split_name(table))


class SourceSettings(BaseModel):
    """The captured PostgreSQL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="main", pattern=r"^[a-z0-9_]{1,40}$", description="names this source in the state store")
    url: SecretStr = Field(description="a libpq URL or conninfo string; every libpq parameter may be given")
    plugin: Literal["auto", "wal2json", "pgoutput"] = "auto"
    slot: str = Field(default="cdc_tracker", pattern=r"^[a-z0-9_]{1,63}$")
    publication: str = Field(default="cdc_tracker", pattern=r"^[a-z_][a-z0-9_]{0,50}$")
    failover: bool = Field(default=False, description="PostgreSQL 17+: the slot follows a failover to a synchronised standby")
    ack: Literal["delivered", "journaled"] = "delivered"
    max_wal: Size = Field(
        default=10 * 1000**3, description="above this much retained WAL, WAL is confirmed once journaled, before delivery"
    )
    max_row: Size = Field(
        default=16 * 1000**2, ge=10_000, description="bytes of a row as text; the largest values of a larger row are left out"
    )
    heartbeat: Duration = Field(default=10.0, description="0 turns it off")
    outbox: OutboxSettings | None = OutboxSettings()
    namespace: str | None = Field(default=None, description="UUID that event ids are made in; only for moves between clusters")
    never_capture: dict[str, list[str]] = Field(
        default_factory=dict, description="`schema.table`: columns that must not leave the database"
    )

    @field_validator("never_capture")
    @classmethod
    def _named(cls, never: dict[str, list[str]]) -> dict[str, list[str]]:
        return {table_name(*split_name(table)): columns for table, columns in never.items()}

    @field_validator("url")
    @classmethod
    def _not_empty(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().strip():
            raise ValueError("is empty: give a URL such as postgresql://cdc_tracker@db.internal:5432/shop")
        return url


class Retention(BaseModel):
    """How far back a rewind can reach. A segment that a destination still needs is never deleted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    age: Duration = Field(default=7 * 86400.0, ge=0)
    size: Size = Field(default=10 * 1000**3, ge=0)


class StoreSettings(BaseModel):
    """A store of the worker: `url`, or else the SQLite file `file` in data_dir."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: ClassVar[str]
    url: SecretStr | None = Field(
        default=None, description="postgresql://… if roles run on several machines; without it, a SQLite file in data_dir"
    )

    def location(self, data_dir: Path) -> str:
        """The URL to open."""
        return self.url.get_secret_value() if self.url else f"sqlite:///{data_dir / self.file}"


class StateSettings(StoreSettings):
    """The store of checkpoints, dead letters and the ledger."""

    file = "state.sqlite"


class JournalSettings(StoreSettings):
    """The store of captured segments: kept until every destination has passed them, then as long as `retention` says."""

    file = "journal.sqlite"
    retention: Retention = Retention()


class HttpSettings(BaseModel):
    """The address of /healthz, /readyz and /metrics. `port: null` turns them off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int | None = Field(default=9464, ge=0, le=65535)
