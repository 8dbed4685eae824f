"""What tells a process from every other that has, had or will have its number."""

from __future__ import annotations

import os
from pathlib import Path


def identity() -> str:
    """What tells this process from every other that has, had or will have its number. Empty where the system does not say.

    The boot, the namespace in which the number holds (every container has a process 1), and the time of its start.
    """
    started = _started(os.getpid())
    return f"{_numbering()} {started}" if started else ""


def runs(pid: int, known: str) -> bool | None:
    """Whether the process that gave `known` as its identity() still runs; None where that cannot be told from here."""
    numbering, _, started = known.rpartition(" ")
    if not known or numbering != _numbering():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    found = _started(pid)
    return None if found is None else found == started


def _numbering() -> str:
    """The boot and the process namespace, as text; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When the process started, in ticks since the boot. Empty for one that has ended; None where it cannot be seen."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "" if state in "ZX" else fields[18]
