"""What befalls a worker, and what is said of it. A worker that is well has no finding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cdc_tracker.journal import Waiting
from cdc_tracker.model import START
from cdc_tracker.monitoring import Health
from cdc_tracker.state import Job, JobCounts, ReplayProgress, ReplaySpec, SupervisorReport
from tests.unit.monitoring.facts import ago, role, well

MINUTE, HOUR = 60, 3600
GONE = {"capture": "gone", "deliver:events": "gone", "supervisor": "gone"}
WAITING = Waiting(changes=12, bytes=5_000, oldest=ago(10))
AWAY = {"trouble": "segment answers 503", "hint": "see its status page", "waiting": WAITING, "lag": 10.0}


def ends(number: int, code: int = 1, **more: Any) -> dict[str, Any]:
    told = {"running": True, "ends": number, "ends_ever": number, "ended_at": ago(2), "code": code, **more}
    return {"roles": {"deliver:events": told}}


def retrying(seconds: float, **more: Any) -> Health:
    return well(states={"deliver:events": "retrying"}, destination={**AWAY, "since": ago(seconds), **more})


def rejecting(rejected: int, delivered: int) -> Health:
    recent = {"rejected": rejected, "rejected:column_missing": rejected, "delivered": delivered}
    return well(destination={"recent": recent, "dead_letters": {"column_missing": rejected}})


def failed_job() -> Job:
    spec, progress = ReplaySpec(after=START, upto=START, events=None, mappings={}), ReplayProgress()
    rest = {"trouble": "a mapping is gone", "updated_at": ago(5)}
    return Job(7, "main", "events", "replay", "failed", spec, progress, JobCounts(), b"", None, **rest)  # type: ignore[arg-type]


def test_a_worker_that_is_well_has_no_finding() -> None:
    assert well().findings == [] and well().problems == []


ERRORS = {
    "a killed worker": (well(states=GONE), "worker was killed"),
    "a worker that stopped": (
        well(states={"supervisor": "failed", "capture": "failed"}, supervisor={"trouble": "the slot is gone", "hint": "repair"}),
        "worker has stopped: the slot is gone",
    ),
    "a supervisor that hangs": (well(states={"supervisor": "silent"}), "worker: its supervisor runs but does not report"),
    "a role that crashes again and again": (
        well(supervisor=ends(4, trouble="KeyError", hint="")),
        "deliver:events ended 4 times within ten minutes, last with code 1: KeyError",
    ),
    "a role that is killed again and again": (well(supervisor=ends(3, -9)), "last with SIGKILL"),
    "a worker that crashes again and again": (
        well(supervisor={"roles": {"supervisor": {"running": False, "ends": 3, "trouble": "a fault", "hint": ""}}}),
        "worker ended 3 times within ten minutes: a fault",
    ),
    "a role that needs a person": (well(supervisor=ends(1, 3, running=False)), "ended once within ten minutes, last with code 3"),
    "a full disk": (well(free=(400_000, 100_000_000_000)), "data_dir: its disk is full (400.0 KB of 100.0 GB left)"),
    "a small full disk": (well(free=(900_000, 8_000_000)), "data_dir: its disk is full"),
    "a server that is away": (
        well(
            states={"capture": "reconnecting"},
            roles=[role("capture", "reconnecting", trouble="connection refused")],
            capture={"hint": "is it running?"},
        ),
        "capture is reconnecting: connection refused",
    ),
    "capture that hangs": (well(states={"capture": "silent"}), "capture is silent: its process"),
    "capture that never ran": (well(states={"capture": "gone"}, roles=[]), "capture is gone: it has never run"),
    "a stream that stands still": (well(capture={"moved_at": ago(90)}), "the stream has not moved for 90 s"),
    "a slot that nobody asks about": (well(capture={"asked_at": ago(90)}), "capture has not learned the slot's state for 90 s"),
    "capture that lags": (well(capture={"current_at": ago(600)}), "capture is 10 m behind the server"),
    "an alarm": (
        well(capture={"alarms": [{"what": "shop.users is not in the publication", "hint": "setup", "since": ago(5)}]}),
        "shop.users is not in the publication",
    ),
    "a reload that failed": (
        well(supervisor={"reload": {"at": ago(5), "error": "mappings/a.yml:3: no such key", "hint": ""}}),
        "mappings: the last reload failed, and the old ones stay in force: mappings/a.yml:3",
    ),
    "a mapping without its column": (
        well(supervisor={"misfits": ["a.yml:3: properties.x: there is no column x\n    did you mean y?"]}),
        "mappings: do not fit the tables: a.yml:3: properties.x: there is no column x",
    ),
    "a mapping without its column, by the stream": (
        well(destination={"misfits": ["a.yml:3: there is no column x"]}),
        "mappings: do not fit the tables: a.yml:3",
    ),
    "a destination that nobody delivers to": (
        well(states={"deliver:events": "stopped"}, destination={"waiting": WAITING}),
        "events: nothing delivers to it: its role is stopped",
    ),
    "a destination that refuses us": (
        well(states={"deliver:events": "blocked"}, destination=AWAY),
        "events is blocked for 60 m, up to 12 changes wait, the oldest for 10 s: segment answers 503",
    ),
    "a destination that has failed for long": (retrying(2 * MINUTE), "events is retrying for 2 m, up to 12 changes wait"),
    "a destination that is far behind": (retrying(5, lag=2.0 * HOUR), "events is retrying"),
    "a destination that is slow": (
        well(states={"deliver:events": "delivering"}, destination={"lag": 2.0 * HOUR, "waiting": WAITING}),
        "events is delivering, up to 12 changes wait, the oldest for 2 h",
    ),
    "every event rejected": (rejecting(20, 0), "events: 20 of 20 events of the last 5 minutes (100 %) were rejected"),
    "a third of the events rejected": (rejecting(30, 70), "events: 30 of 100 events of the last 5 minutes (30 %)"),
}
WARNINGS = {
    "a mapping that never matches": (
        well(supervisor={"mistakes": ["a.yml:3: when: always False: the enum has no value 'x'"]}),
        "mappings: a.yml:3: when: always False",
    ),
    "a role that ended once": (well(supervisor=ends(1, -11)), "deliver:events ended once within ten minutes, last with SIGSEGV"),
    "a destination that has just failed": (retrying(5), "events is retrying for 5 s"),
    "a few events rejected": (rejecting(1, 99), "1 of 100 events of the last 5 minutes (1 %)"),
    "dead letters": (
        well(destination={"dead_letters": {"refused": 3}}),
        "events: 3 dead letters wait to be retried or discarded",
    ),
    "a job that failed": (well(jobs=[failed_job()]), "events: job 7 (replay) has failed: a mapping is gone"),
    "a destination that was restored": (well(destination={"trouble": "the destination was restored"}), "was restored"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_the_worker_is_not_ready_with(fault: str) -> None:
    health, text = ERRORS[fault]
    assert text in "\n".join(health.problems), health.problems


@pytest.mark.parametrize("fault", WARNINGS)
def test_all_is_not_well_although_the_worker_is_ready_with(fault: str) -> None:
    health, text = WARNINGS[fault]
    assert text in "\n".join(map(str, health.findings)), health.findings
    assert not health.problems


@pytest.mark.parametrize("fault", [*ERRORS, *WARNINGS])
def test_a_person_is_told_what_to_do_about(fault: str) -> None:
    health, text = (ERRORS | WARNINGS)[fault]
    [found] = [each for each in health.findings if text in str(each)]
    assert found.hint or "stream" in fault or "restored" in fault, found


def test_roles_that_were_started_one_by_one_need_no_supervisor() -> None:
    assert not well(states={"supervisor": "gone"}).findings
    health = well()
    states = {name: state for name, state in health.states.items() if name != "supervisor"}
    assert not replace(health, states=states, supervisor=SupervisorReport()).findings


def test_what_a_killed_supervisor_said_of_its_roles_is_not_told_any_more() -> None:
    assert not any("ended" in problem for problem in well(states=GONE, supervisor=ends(5)).problems)


def test_a_destination_that_waits_for_its_start_is_well() -> None:
    assert not well(states={"deliver:events": "waiting"}, destination={"trouble": "it begins with 2027"}).findings


def test_what_an_older_version_reported_is_understood() -> None:
    older = {"alarms": [{"what": "the slot is unreserved"}], "moved_at": 0, "asked_at": 0, "current_at": 0, "since": 0}
    assert well(capture=older).problems == ["the slot is unreserved"]


def test_a_freshly_made_worker_without_traffic_is_well() -> None:
    assert not well(capture={"current_at": 0, "journaled_until": 0}).findings


def test_a_role_that_the_supervisor_starts_again_needs_nobody_to_start_the_worker() -> None:
    [found] = well(states={"deliver:events": "gone"}).findings
    assert "starts it again" in found.hint


def test_what_a_destination_that_does_not_answer_holds_up_is_told_with_its_number_and_since_when() -> None:
    since = ago(40)
    hung = {"trouble": "it does not answer", "waiting": WAITING, "lag": 10.0, "since": since}
    [finding] = well(states={"deliver:events": "delivering"}, destination=hung).findings
    assert "it does not answer, up to 12 changes wait" in str(finding)
    assert (finding.severity, finding.since) == ("warning", since)
