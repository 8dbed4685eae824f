"""The context of a command: the global options, and the configuration, state and journal that they name.

Imported by every command, so it imports nothing heavy before it is asked.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cdc_tracker.config.config import Config
    from cdc_tracker.journal import Journal
    from cdc_tracker.state import State


class Invocation:
    """`config_path` and `debug` are the global options."""

    def __init__(self, config_path: Path | None, debug: bool) -> None:
        self.config_path = config_path
        self.debug = debug

    @cached_property
    def config(self) -> Config:
        """The configuration. Raises ConfigError.

        From the first use on, warnings of libraries go to standard error, so that `--json` stays JSON, and files that the command
        writes are readable as the configuration says.
        """
        return self._loaded(offline=False)

    @cached_property
    def offline_config(self) -> Config:
        """As `config`, for reading it only: secrets may be absent. Raises ConfigError."""
        return self._loaded(offline=True)

    def _loaded(self, *, offline: bool) -> Config:
        from cdc_tracker import logs  # noqa: PLC0415
        from cdc_tracker.worker.assemble import load_config  # noqa: PLC0415

        loaded = load_config(self.config_path, offline=offline)
        os.umask(loaded.umask)
        logs.set_up(logs.LogSettings(format="text", level="warning"), secrets=loaded.secrets())
        return loaded

    @property
    def source(self) -> str:
        """The name of the source that is configured."""
        return self.config.source.name

    def state(self, *, to_read: bool = False) -> State:
        """The state store, to be closed. `to_read`: opened without writing, so that a full disk does not matter."""
        from cdc_tracker.worker.assemble import open_state  # noqa: PLC0415

        return open_state(self.config, to_read=to_read)

    def journal(self, *, to_read: bool = False) -> Journal:
        """The journal, to be closed. `to_read`: as for the state store."""
        from cdc_tracker.worker.assemble import open_journal  # noqa: PLC0415

        return open_journal(self.config, to_read=to_read)
