"""Child processes that end with their parent, and the server that forks a worker's roles."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from select import select
from subprocess import DEVNULL, Popen
from typing import IO, Any

from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.worker.signals import hold

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def ends_with_us(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Returns a `preexec_fn` for Popen: the kernel sends the child this signal when the thread that started it ends, in any way.

    On Linux only. A program that changes its user loses it: start it as that user instead. The function takes no lock, so that
    it may run between fork and exec.
    """
    return partial(_end_with, os.getpid(), number)


def spawn(command: Sequence[str], log: IO[bytes], number: signal.Signals = signal.SIGKILL, **options: Any) -> Popen[bytes]:
    """Starts a program that ends with us: see `ends_with_us`. Its output goes to `log`, and Ctrl-C does not reach it."""
    return Popen(
        command,
        stdin=DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=ends_with_us(number),  # noqa: PLW1509 - prctl only
        **options,
    )


def _end_with(parent: int, number: signal.Signals) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before prctl
        os._exit(1)


def name_process(name: str) -> None:
    """Sets the name that `top` and `ps -o comm` show for this process, cut to 15 bytes. On Linux only."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_NAME, name.encode())


class ForkServer:
    """A process that has loaded the program, opened nothing, and forks the roles from itself.

    A role starts in a hundredth of a second and shares the loaded program's memory; on its own it would need most of a second of
    CPU to load it. Create the server before its owner starts a thread or opens a connection: neither survives a fork. Close it.

    Why not multiprocessing's forkserver with preload: it executes a new interpreter, which loads the program a second time, next
    to a resource tracker (four idle roles: 143 MB instead of 71 MB). If its owner is killed, server and roles stay. If the server
    is killed, the roles stay, and all of them are reported to have ended with 255. It signals by process id, which may belong to
    another process by then.
    """

    def __init__(self, run: Callable[[str], int]) -> None:
        """`run(name)` is all that the process of that name does; it returns the exit code.

        The process begins with blocked signals (see signals.py); its Signals receives those that came meanwhile.
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
        """Forks the process of this name, which does not run."""
        self._ask(f"start {name}")

    def send(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to the process of this name. Does nothing if it has ended."""
        self._ask(f"{int(number)} {name}")

    def ended(self, seconds: float) -> Iterator[tuple[str, int]]:
        """Waits so long for processes to end; yields their names and exit codes, negative after a signal."""
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
        """Ends the server; the kernel kills the roles that still run."""
        self._socket.close()
        os.waitpid(self._pid, 0)


def _leave(work: Callable[[], int]) -> None:
    """Does the work of a forked process and ends it, without the exit handlers of its parent."""
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # also if the output cannot be written: the process must not continue as a copy of its parent
            os._exit(code)


def _serve(owner: socket.socket, run: Callable[[str], int], parent: int) -> int:
    _end_with(parent, signal.SIGKILL)
    name_process("cdc-forkserver")
    os.setsid()  # Ctrl-C reaches the owner only, which passes it on
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
                with contextlib.suppress(OSError):  # the owner is gone: the next recv returns nothing
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
                elif name in running:  # not reaped yet: its id cannot be another process's
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
