"""The demo's folder: what is where, and the configuration that the worker gets."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import yaml

import cdc_tracker
from cdc_tracker.demo.receiver import WRITE_KEY

SOURCE = "shop"
_MARK = ".cdc-tracker-demo"  # only a folder with this file in it is ever deleted


class PlaceTaken(Exception):
    """The folder holds something that the demo did not put there."""


class Place:
    """By `with` it is taken, so that a second demo does not delete what the first one works with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.server = self.folder / "postgres"
        self.config = self.folder / "cdc-tracker.yml"
        self.data = self.folder / "data"
        self.log = self.folder / "worker.log"
        self.events = self.folder / "events"
        self.warehouse = self.folder / "warehouse.db"
        self.vendor = self.folder / "segment.jsonl"

    def __enter__(self) -> Place:
        """Delete what an earlier run left. Raises PlaceTaken."""
        mark = self.folder / _MARK
        if self.folder.exists() and any(self.folder.iterdir()) and not mark.exists():
            raise PlaceTaken(f"{self.folder} is not empty and not from an earlier demo: name another folder with --dir.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = mark.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise PlaceTaken(
                f"Another demo runs in {self.folder}: wait for its end, or name another folder with --dir."
            ) from None
        for left in self.folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left != mark:
                left.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def write_config(self, url: str, endpoint: str) -> None:
        """The configuration, as one would write it by hand."""
        config = {
            "version": 1,
            # At 1 s a heartbeat is seen in a short demo; usually it is more.
            "source": {"name": SOURCE, "url": url, "plugin": "auto", "heartbeat": "1s"},
            "data_dir": str(self.data),
            "mappings": [str(mappings())],
            "destinations": {
                "events": {"type": "jsonl", "path": str(self.events)},
                "warehouse": {"type": "sql", "url": f"sqlite:///{self.warehouse}"},
                "segment": {"type": "segment", "write_key": WRITE_KEY, "endpoint": endpoint},
            },
            "http": {"port": 0},
            "log": {"format": "json"},
        }
        self.config.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def event_files(self) -> list[Path]:
        return sorted(self.events.glob("*.jsonl"))


def mappings() -> Path:
    """The repository's example mappings."""
    found = Path(cdc_tracker.__file__).parents[1] / "mappings"
    if not found.is_dir():
        raise PlaceTaken("The demo runs from a checkout of the repository, with `make demo`: there is no folder `mappings` here.")
    return found
