"""Child processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def ends_with_us(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn` for Popen: the kernel sends the child this signal when the thread that started it is gone, however it ended.

    On Linux only. A program that changes its user by itself forgets it: start it as that user instead. It takes no lock, so that
    it may run between fork and exec.
    """
    return partial(_end_with, os.getpid(), number)


def _end_with(parent: int, number: signal.Signals) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # killed before we could say so
        os._exit(1)
