"""The `state:` part of the configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class StateSettings(BaseModel):
    """Where checkpoints, dead letters and the ledger are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr | None = Field(
        default=None,
        description="postgresql://… where roles run on several machines; without it, the file state.sqlite in data_dir",
    )

    def location(self, data_dir: Path) -> str:
        """The URL to open."""
        return self.url.get_secret_value() if self.url else f"sqlite:///{data_dir / 'state.sqlite'}"
