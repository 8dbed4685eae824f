"""Child processes: how they end with the one that started them, and how a worker's roles are forked."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from select import select

from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.worker.signals import hold

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


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


def name_process(name: str) -> None:
    """What `top` and `ps -o comm` show for this process: the first 15 bytes of it. On Linux only."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_NAME, name.encode())


class ForkServer:
    """A process that has loaded the program and opened nothing, and forks the others from itself.

    They start in a hundredth of a second and share the memory of what was loaded. Each would else take most of a second of CPU
    to load the same. Made before its owner starts a thread or opens a connection: neither survives a fork. To be closed.
    """

    def __init__(self, run: Callable[[str], int]) -> None:
        """`run(name)`, in the process of that name: what it does, from its beginning to its exit code.

        It begins with signals on hold (see signals.py): its own Signals takes up what came meanwhile.
        """
        self._socket, theirs = socket.socketpair()
        self._heard = b""
        us = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _leave(partial(_serve, theirs, run, us))
        theirs.close()

    def start(self, name: str) -> None:
        """Fork the process of this name. There is none with it at present."""
        self._ask(f"start {name}")

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal. Nothing happens where the process has ended by now."""
        self._ask(f"{int(number)} {name}")

    def ended(self, seconds: float) -> Iterator[tuple[str, int]]:
        """Wait so long for processes that end: their names and exit codes, which are negative after a signal."""
        if not select([self._socket], [], [], seconds)[0]:
            return
        *lines, self._heard = self._receive().split(b"\n")
        for line in lines:
            code, _, name = line.decode().partition(" ")
            yield name, int(code)

    def _receive(self) -> bytes:
        received = self._socket.recv(1 << 16)
        if not received:
            raise self._gone()
        return self._heard + received

    def _ask(self, request: str) -> None:
        try:
            self._socket.sendall(request.encode() + b"\n")
        except OSError as error:
            raise self._gone() from error

    def _gone(self) -> CdcTrackerError:
        return CdcTrackerError("the process that starts the roles is gone, and the roles with it", hint="start the worker again")

    def close(self) -> None:
        """Ends it, and by SIGKILL what it has started and still runs."""
        self._socket.close()
        os.waitpid(self._pid, 0)


def _leave(work: Callable[[], int]) -> None:
    """Do it, and end this forked process: what its parent would do at its own end is not for us."""
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # also where nobody reads them any more: it must not go on as a second one of its parent
            os._exit(code)


def _serve(owner: socket.socket, run: Callable[[str], int], parent: int) -> int:
    _end_with(parent, signal.SIGKILL)
    name_process("cdc-forkserver")
    os.setsid()  # Ctrl-C is for our owner, who then tells the others
    hold()
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[str, int] = {}
    asked = b""
    while True:
        ready = select([owner, woken], [], [])[0]
        if woken in ready:
            woken.recv(1 << 12)
            for name, code in _reap(running):
                with contextlib.suppress(OSError):  # the owner is gone: we hear of that next
                    owner.sendall(f"{code} {name}\n".encode())
        if owner in ready:
            received = owner.recv(1 << 16)
            if not received:
                return 0
            *requests, asked = (asked + received).split(b"\n")
            for request in requests:
                what, _, name = request.decode().partition(" ")
                if what == "start":
                    running[name] = _fork(name, run, owner)
                elif name in running:  # not reaped yet, so that its number cannot be another's
                    os.kill(running[name], int(what))


def _reap(running: dict[str, int]) -> Iterator[tuple[str, int]]:
    for name, pid in list(running.items()):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            del running[name]
            yield name, os.waitstatus_to_exitcode(status)


def _fork(name: str, run: Callable[[str], int], owner: socket.socket) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _end_with(parent, signal.SIGKILL)
        owner.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _leave(partial(run, name))
    return pid
