"""The fork server: in a Python of its own each time, since a process with threads (pytest's) must not fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdc_tracker.state import process_identity
from tests.worker import until

ROOT = Path(__file__).parents[3]
BEGIN = """
import os, signal, sys, time
from cdc_tracker.errors import CdcTrackerError
from cdc_tracker.worker.processes import ForkServer
from cdc_tracker.worker.signals import ASKED

def run(name):
    if name == "fails":
        raise ValueError("as it was told")
    if name == "cannot write":
        sys.stdout = open("/dev/full", "w")
        print("lost")
    if name.startswith("waits"):
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
        os.write(1, f"{name} {os.getpid()} {os.getsid(0)}\\n".encode())  # in one piece
        time.sleep(60)
    return 3

def ended(forks, count):
    found = {}
    while len(found) < count:
        found |= forks.ended(10)
    return found

forks = ForkServer(run)
"""


def _python(code: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", BEGIN + code], cwd=ROOT, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def _said(code: str) -> tuple[str, str]:
    with _python(code) as process:
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    return out, err


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(autouse=True)
def only_on_linux() -> None:
    if sys.platform != "linux":
        pytest.skip("looks for processes in /proc")


def test_exit_codes_come_back_by_name_and_a_fault_is_shown() -> None:
    out, err = _said("for name in ('one', 'two', 'fails'): forks.start(name)\nprint(sorted(ended(forks, 3).items()))")
    assert out == "[('fails', 1), ('one', 3), ('two', 3)]\n"
    assert "ValueError: as it was told" in err


def test_one_that_cannot_write_its_output_ends_all_the_same() -> None:
    assert _said("forks.start('cannot write')\nprint(ended(forks, 1))") == ("{'cannot write': 3}\n", "")


def test_a_name_can_be_started_again_and_a_signal_to_one_that_has_ended_does_nothing() -> None:
    code = "for _ in range(50):\n    forks.start('one'); assert ended(forks, 1) == {'one': 3}; forks.send('one', signal.SIGKILL)"
    assert _said(code) == ("", "")


def test_signals_arrive_and_none_is_lost_at_the_start() -> None:
    code = """
for _ in range(20):
    forks.start("waits")
    forks.send("waits", signal.SIGHUP)
    forks.send("waits", signal.SIGTERM)
    assert ended(forks, 1)["waits"] == 7
forks.start("waits")
forks.send("waits", signal.SIGKILL)
print(ended(forks, 1))
"""
    out, err = _said(code)
    assert (out.splitlines()[-1], err) == ("{'waits': -9}", "")


def test_what_still_runs_ends_with_its_owner_whether_that_closes_or_is_killed() -> None:
    for ending in ("close", "kill"):
        with _python("forks.start('waits')\nforks.start('waits too')\nsys.stdin.readline()\nforks.close()") as process:
            assert process.stdin is not None and process.stdout is not None
            started = [int(process.stdout.readline().split()[-2]) for _ in range(2)]
            assert not any(map(_gone, started))
            if ending == "kill":
                process.kill()
            process.communicate("\n" if ending == "close" else None, timeout=30)
        until(lambda left=started: all(map(_gone, left)), "they have ended", seconds=10)  # type: ignore[misc]


def test_a_killed_server_takes_its_processes_along_and_the_owner_is_told() -> None:
    code = """
forks.start("waits")
sys.stdin.readline()
for ask in (lambda: list(forks.ended(10)), lambda: (time.sleep(0.1), forks.start("one"))):
    try:
        ask()
    except CdcTrackerError as error:
        print(error)
"""
    with _python(code) as process:
        assert process.stdin is not None and process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert Path(f"/proc/{parent}/comm").read_text() == "cdc-forkserver\n"
        os.kill(parent, signal.SIGKILL)
        until(lambda: _gone(pid), "it has ended", seconds=10)
        out, err = process.communicate("\n", timeout=30)
    assert (out, err) == ("the process that starts the roles is gone, and the roles with it\n" * 2, "")


def test_ctrl_c_on_the_terminal_reaches_the_owner_only() -> None:
    code = "forks.start('waits')\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print(list(forks.ended(0.5)))"
    with _python(code) as process:
        assert process.stdout is not None
        _, pid, session = process.stdout.readline().split()
        assert int(session) != os.getsid(process.pid)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30) == ("[]\n", "")
    until(lambda: _gone(int(pid)), "it has ended", seconds=10)


def test_a_process_is_known_by_its_start_and_not_by_its_number_alone() -> None:
    program = "from cdc_tracker.state import process_identity; print(process_identity.identity(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        known = child.stdout.readline().strip()
        numbering, _, started = known.rpartition(" ")
        assert process_identity.runs(child.pid, known) is True
        assert process_identity.runs(child.pid, f"{numbering} {int(started) - 1}") is False  # another had this number before
        child.kill()
        until(
            lambda: process_identity.runs(child.pid, known) is False,
            "it is known to have ended, although nobody has waited for it",
        )
    assert process_identity.runs(child.pid, known) is False


def test_whether_a_process_of_another_boot_or_container_runs_is_not_known() -> None:
    boot, namespace, started = process_identity.identity().split()
    for elsewhere in (f"another-boot {namespace} {started}", f"{boot} 1 {started}", ""):
        assert process_identity.runs(os.getpid(), elsewhere) is None
