"""Tells a process from every other one that has, had or will have its number."""

from __future__ import annotations

import os
from pathlib import Path


def identity() -> str:
    """The boot, the namespace of process numbers (every container has a process 1), and the time of this process's start.

    Empty if the system does not say.
    """
    started = _started(os.getpid())
    return f"{_numbering()} {started}" if started else ""


def runs(pid: int, known: str) -> bool | None:
    """Whether the process whose identity() was `known` still runs; None if that cannot be seen from here."""
    numbering, _, started = known.rpartition(" ")
    if not known or numbering != _numbering():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to another user
    found = _started(pid)
    return None if found is None else found == started


def _numbering() -> str:
    """The boot and the process namespace, as text; empty if there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When the process started, in ticks since the boot. Empty if it has ended; None if it cannot be seen."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "" if state in "ZX" else fields[18]
