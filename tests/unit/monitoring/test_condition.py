"""The state that a role is in, from what it said last."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from cdc_tracker.monitoring import condition, reports
from cdc_tracker.state import RoleRecord, process_identity
from tests.unit.monitoring.facts import ago, role
from tests.worker import until


def of(process: subprocess.Popen[str], state: str = "streaming") -> RoleRecord:
    assert process.stdout is not None
    return replace(role("capture", state), pid=process.pid, process=process.stdout.readline().strip())


def sleeping() -> subprocess.Popen[str]:
    program = "from cdc_tracker.state import process_identity; print(process_identity.identity(), flush=True); input()"
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_role_that_was_killed_a_moment_ago_is_gone() -> None:
    with sleeping() as process:
        record = of(process)
        assert condition(record) == "streaming" and reports([record], "capture")
        process.kill()
        until(lambda: condition(record) == "gone", "it is known to be gone")
        assert not reports([record], "capture")


def test_another_process_with_the_role_s_number_is_not_taken_for_it() -> None:
    with sleeping() as process:
        record = of(process)
        numbering, _, started = record.process.rpartition(" ")
        assert condition(replace(record, process=f"{numbering} {int(started) - 7}")) == "gone"
        process.kill()


def test_a_role_that_is_there_and_does_not_report_is_silent() -> None:
    assert condition(role("capture", "streaming", seconds=20)) == "silent"


def test_a_report_from_the_time_before_the_clock_was_set_back_is_not_taken_for_a_new_one() -> None:
    assert condition(role("capture", "streaming", seconds=-3600)) == "silent"


def test_a_role_of_another_host_or_container_or_of_an_older_version_counts_by_time() -> None:
    boot, namespace, started = process_identity.identity().split()
    for elsewhere in ("", f"other {namespace} {started}", f"{boot} 1 {started}"):  # also with the number 1 and the same host name
        record = replace(role("capture", "streaming"), pid=1, process=elsewhere)
        assert condition(record) == "streaming"
        assert condition(replace(record, updated_at=ago(20))) == "gone"


def test_a_role_that_said_that_it_stopped_or_failed_did() -> None:
    assert condition(role("capture", "stopped", seconds=500)) == "stopped"
    assert condition(role("capture", "failed", seconds=500)) == "failed"
    assert condition(None) == "gone"
