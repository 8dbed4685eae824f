"""The `journal:` part of the configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from cdc_tracker.units import Duration, Size


class Retention(BaseModel):
    """How far back a rewind can reach. A segment that a destination still needs is never deleted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    age: Duration = Field(default=7 * 86400.0, ge=0)
    size: Size = Field(default=10 * 1000**3, ge=0)


class JournalSettings(BaseModel):
    """Where captured segments are stored: until every destination has passed them, then as long as `retention` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr | None = Field(
        default=None,
        description="postgresql://… where roles run on several machines; without it, the file journal.sqlite in data_dir",
    )
    retention: Retention = Retention()

    def location(self, data_dir: Path) -> str:
        """The URL to open."""
        return self.url.get_secret_value() if self.url else f"sqlite:///{data_dir / 'journal.sqlite'}"
