"""Commands as a user types them, forked from a Python that has loaded the libraries: that is most of what a command takes.

Of cdc-tracker itself nothing is loaded there: each command still imports what it needs, and in a process of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = ("alembic.command", "click", "httpx", "msgspec", "prometheus_client", "psycopg", "pydantic_settings", "rich.progress",
             "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "structlog", "yaml")  # fmt: skip
_lock = threading.Lock()
_server: list[socket.socket] = []  # one, once it is needed


def ended(
    module: str, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments…`, without input, to its end. Raises subprocess.TimeoutExpired, and kills it."""
    words = [module, *arguments]
    request = json.dumps({"words": words, "cwd": str(cwd), "environment": dict(environment)}).encode()
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _lock:
            if not _server:
                _server.append(_start())
            socket.send_fds(_server[0], [len(request).to_bytes(4)], [out.fileno(), err.fileno(), theirs.fileno()])
            _server[0].sendall(request)
        theirs.close()
        ours.settimeout(timeout)
        with ours.makefile("rb") as told:
            pid = int(told.readline())
            try:
                code = int(told.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, timeout) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read().decode(), err.read().decode())


def _start() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.commands", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parent.parent,
            start_new_session=True,  # Ctrl-C is for pytest; it ends when our end of the socket is gone
        )
    atexit.register(process.wait, 60)
    atexit.register(ours.close)  # before that: it ends then
    return ours


def _serve(requests: socket.socket) -> None:
    """Never returns where it was forked: there the command ends the process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        size, files, _, _ = socket.recv_fds(requests, 4, 3)
        if not size:
            return
        request = b""
        while len(request) < int.from_bytes(size):
            request += requests.recv(1 << 16)
        if os.fork() == 0:
            requests.close()
            _run(json.loads(request), *files)
        for file in files:
            os.close(file)


def _run(request: dict[str, Any], out: int, err: int, told: int) -> None:
    """In a process that waits for the command, in one of its own, and tells its number and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        os.write(told, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):
            os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.close(told)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 64)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    module, *sys.argv[1:] = request["words"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
