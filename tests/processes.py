"""Servers that tests start: on free ports, and ended with the test process, however that ends."""

from __future__ import annotations

import contextlib
import ctypes
import random
import signal
import socket
import sys


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Runs in the child before exec: the signal that it gets when its parent is gone.

    A program that changes its user by itself forgets it: start it as that user instead.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different.

    Below those that the system gives to clients: while a server is being restarted, a client that keeps connecting would now and
    then be given the server's own port, and connect to itself.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            port = random.randrange(15_000, 32_000)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found
