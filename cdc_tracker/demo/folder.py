"""The demo's folder: its files, and the worker's configuration."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import yaml

import cdc_tracker
from cdc_tracker.demo import DemoFailed
from cdc_tracker.demo.receiver import WRITE_KEY

SOURCE = "shop"
_MARK = ".cdc-tracker-demo"  # only a folder with this file in it is ever deleted


class FolderTaken(DemoFailed):
    """The folder has files that the demo did not create, or another demo uses it."""


class DemoFolder:
    """The paths. `with` locks the folder, so that a second demo does not delete the files of the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.server = self.folder / "postgres"
        self.config = self.folder / "cdc-tracker.yml"
        self.data = self.folder / "data"
        self.log = self.folder / "worker.log"
        self.events = self.folder / "events"
        self.warehouse = self.folder / "warehouse.db"
        self.vendor = self.folder / "segment.jsonl"

    def __enter__(self) -> DemoFolder:
        """Deletes the files of an earlier run. Raises FolderTaken."""
        mark = self.folder / _MARK
        if self.folder.exists() and any(self.folder.iterdir()) and not mark.exists():
            raise FolderTaken(f"{self.folder} is not empty and not from an earlier demo: name another folder with --dir.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = mark.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise FolderTaken(
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
        """Writes the configuration, as a user would."""
        config = {
            "version": 1,
            # 1 s shows a heartbeat in a short demo; the default is longer.
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
        """The files of the jsonl destination."""
        return sorted(self.events.glob("*.jsonl"))


def mappings() -> Path:
    """The repository's example mappings."""
    found = Path(cdc_tracker.__file__).parents[1] / "mappings"
    if not found.is_dir():
        raise FolderTaken("The demo needs a checkout of the repository: run `make demo` there. No folder `mappings` was found.")
    return found
