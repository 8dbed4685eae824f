"""Whether an open file is still the one at its path."""

from __future__ import annotations

import os
from pathlib import Path


def identity(file: Path | int) -> tuple[int, int] | None:
    """Device and inode of the file at a path, or of an open one; None if there is none. Raises OSError if it cannot be seen."""
    try:
        found = os.stat(file)  # noqa: PTH116  before every transaction: three times as fast as Path.stat
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def is_at(file: int, path: Path) -> bool:
    """Whether the open file is the one at the path. Raises OSError if that cannot be seen."""
    return identity(file) == identity(path)
