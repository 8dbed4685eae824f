"""The supervisor with a fault at each of its steps: a fork server that only keeps a list, real stores, real locks."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cdc_tracker.config.config import Config
from cdc_tracker.delivery.sender import Interrupted
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, Fenced, StateMissing, StateUnavailable, Stop
from cdc_tracker.state import Lock, Sources, State
from cdc_tracker.worker import supervisor
from cdc_tracker.worker.assemble import load_config
from cdc_tracker.worker.processes import ForkServer
from cdc_tracker.worker.signals import Signals
from cdc_tracker.worker.supervisor import Supervisor
from tests.unit.cli.conftest import CONFIG, MAPPING, RECORD
from tests.worker import until

ROLES = ("capture", "deliver:events", "deliver:hook")


class Forks:
    """`at` says what happens at which look at the roles: a function, called once. Roles end when told to, unless `deaf`."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.sent: list[tuple[str, int]] = []
        self.deaf: set[str] = set()
        self.at: dict[int, Callable[[], None]] = {}
        self.looks = 0
        self._running: set[str] = set()
        self._ends: list[tuple[str, int]] = []

    def start(self, name: str) -> None:
        assert name not in self._running, f"{name} runs already"
        self._running.add(name)
        self.started.append(name)

    def send(self, name: str, number: int) -> None:
        self.sent.append((name, number))
        if number == signal.SIGKILL or (number == signal.SIGTERM and name not in self.deaf):
            self.end(name, -number if number == signal.SIGKILL else 0)

    def end(self, name: str, code: int) -> None:
        if name in self._running:
            self._running.remove(name)
            self._ends.append((name, code))

    def ended(self, seconds: float) -> Iterator[tuple[str, int]]:
        time.sleep(0.002)
        self.looks += 1
        assert self.looks < 20_000, "it does not come to an end"
        act = self.at.pop(self.looks, None)
        if act is not None:
            act()
        ends, self._ends = self._ends, []
        yield from ends

    @property
    def running(self) -> set[str]:
        return self._running


class Asked:
    """What signals have asked for."""

    def __init__(self) -> None:
        self.stopped = self.abandoned = self.reloading = False

    def stop(self) -> bool:
        return self.stopped

    def abandon(self) -> bool:
        return self.abandoned

    def take_reload(self) -> bool:
        asked, self.reloading = self.reloading, False
        return asked


class Scene:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "mappings").mkdir()
        (folder / "cdc-tracker.yml").write_text(CONFIG + "http: {port: null}\ndrain_timeout: 200ms\n")
        self.mapping = folder / "mappings" / "orders.yml"
        self.mapping.write_text(MAPPING)
        self.config: Config = load_config(folder / "cdc-tracker.yml")
        self.config.data.mkdir()
        self.forks, self.asked, self.locks = Forks(), Asked(), list[Lock]()
        lock = State.lock

        def taken(state: State, *arguments: Any, **named: Any) -> Lock:
            self.locks.append(lock(state, *arguments, **named))
            return self.locks[-1]

        monkeypatch.setattr(State, "lock", taken)

    def stop(self) -> None:
        self.asked.stopped = True

    def lose(self) -> None:
        self.locks[-1].lost = Fenced("another has it")

    def run(self, *, standby: bool = False) -> None:
        Supervisor(self.config, cast(Signals, self.asked), standby, cast(ForkServer, self.forks)).run()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    for name in ("LONGEST", "LEAVE", "GRACE"):
        monkeypatch.setattr(supervisor, name, 0.1)
    made = Scene(tmp_path, monkeypatch)
    with State.open(made.config.state_url) as state:
        state.sources.save(RECORD)
    return made


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("code", [0, 1, -signal.SIGKILL, -signal.SIGHUP])
def test_a_role_that_ends_is_started_again_and_the_others_go_on(scene: Scene, role: str, code: int) -> None:
    scene.forks.at = {3: lambda: scene.forks.end(role, code), 300: scene.stop}
    scene.run()
    assert sorted(scene.forks.started) == sorted([*ROLES, role])
    assert not scene.forks.running


def test_a_role_that_ends_again_and_again_is_started_less_and_less_often(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST", 30.0)
    scene.forks.at = {look: lambda: scene.forks.end("capture", 1) for look in range(3, 400)} | {400: scene.stop}
    scene.run()
    assert 2 <= scene.forks.started.count("capture") <= 8


def test_capture_that_needs_a_person_ends_the_worker_and_its_roles(scene: Scene) -> None:
    scene.forks.at = {3: lambda: scene.forks.end("capture", 3)}
    with pytest.raises(Stop, match="capture has stopped"):
        scene.run()
    assert not scene.forks.running
    assert (ROLES[1], signal.SIGTERM) in scene.forks.sent


def test_a_delivery_that_needs_a_person_is_tried_again_while_the_others_go_on(scene: Scene) -> None:
    scene.forks.at = {3: lambda: scene.forks.end("deliver:hook", 3), 300: scene.stop}
    scene.run()
    assert scene.forks.started.count("deliver:hook") == 2
    assert scene.forks.started.count("capture") == 1


@pytest.mark.invariant(14)
@pytest.mark.parametrize("deaf", [(), ROLES], ids=["they end", "they do not end by themselves"])
def test_a_lock_that_another_has_taken_ends_the_roles_and_the_worker(scene: Scene, deaf: tuple[str, ...]) -> None:
    scene.forks.deaf = set(deaf)
    scene.forks.at = {3: scene.lose}
    with pytest.raises(Fenced):
        scene.run()
    assert not scene.forks.running
    assert {name for name, number in scene.forks.sent if number == signal.SIGKILL} == set(deaf)


@pytest.mark.invariant(14)
def test_a_standby_that_loses_its_lock_stands_by_and_leads_again_once_it_is_free(scene: Scene) -> None:
    free = threading.Event()

    def lose() -> None:
        scene.lose()
        scene.locks[-1].__exit__()
        threading.Thread(target=hold).start()
        until(lambda: len(scene.locks) == 2, "another has it", seconds=20)

    def hold() -> None:
        with State.open(scene.config.state_url) as other, other.lock("main.worker", wait=10):
            free.wait(20)

    scene.forks.at = {3: lose, 200: scene.stop}
    worker = threading.Thread(target=scene.run, kwargs={"standby": True})
    worker.start()
    until(lambda: len(scene.locks) > 2 and not scene.forks.running, "it stands by", seconds=20)
    time.sleep(0.5)
    assert not scene.forks.running and scene.forks.started.count("capture") == 1
    free.set()
    worker.join(60)
    assert not worker.is_alive()
    assert sorted(scene.forks.started) == sorted(ROLES * 2)


@pytest.mark.parametrize("standby", [False, True])
def test_one_whose_lock_is_held_stops_or_waits_until_it_is_told_to_stop(scene: Scene, standby: bool) -> None:
    if standby:
        threading.Timer(1.0, scene.stop).start()
    expected = pytest.raises(Interrupted if standby else AlreadyRunning)
    with State.open(scene.config.state_url) as other, other.lock("main.worker"), expected:
        scene.run(standby=standby)
    assert not scene.forks.started


@pytest.mark.parametrize("standby", [False, True])
def test_a_state_store_that_is_away_at_the_start_is_waited_for_by_a_standby(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, standby: bool
) -> None:
    original, calls = State.open, list[str]()

    def away(url: str) -> State:
        calls.append(url)
        if len(calls) < 3:
            raise StateUnavailable("it is away")
        return original(url)

    monkeypatch.setattr(State, "open", away)
    scene.forks.at = {3: scene.stop}
    if standby:
        scene.run(standby=True)
        assert set(scene.forks.started) == set(ROLES)
    else:
        with pytest.raises(StateUnavailable):
            scene.run()


@pytest.mark.parametrize("standby", [False, True])
def test_a_store_of_an_older_version_is_taken_over_once_its_last_role_has_ended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, standby: bool
) -> None:
    original, calls = State.open, list[str]()

    def used(url: str) -> State:
        calls.append(url)
        if len(calls) < 3:
            raise AlreadyRunning("The state store is of an older version, and in use")
        return original(url)

    monkeypatch.setattr(State, "open", used)
    scene.forks.at = {3: scene.stop}
    scene.run(standby=standby)
    assert set(scene.forks.started) == set(ROLES)


@pytest.mark.parametrize(("owner", "step"), [(Sources, "get"), (State, "lock")], ids=["source", "lock"])
def test_a_store_that_goes_away_while_a_standby_takes_over_makes_it_stand_by_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    original, calls = getattr(owner, step), list[int]()

    def once(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise StateUnavailable("it is away")
        return original(*arguments, **named)

    monkeypatch.setattr(owner, step, once)
    scene.forks.at = {3: scene.stop}
    scene.run(standby=True)
    assert sorted(scene.forks.started) == sorted(ROLES)


def test_a_source_that_is_not_known_starts_no_role(scene: Scene) -> None:
    with State.open(scene.config.state_url) as state:
        state.forget("main")
    with pytest.raises(StateMissing):
        scene.run()
    assert not scene.forks.started


def test_a_fork_server_that_is_gone_ends_the_worker(scene: Scene) -> None:
    def gone() -> None:
        raise CdcTrackerError("gone")

    scene.forks.at = {3: gone}
    with pytest.raises(CdcTrackerError, match="gone"):
        scene.run()


def test_told_to_stop_it_gives_roles_their_time_and_ends_those_that_take_longer(scene: Scene) -> None:
    scene.forks.deaf = {"deliver:hook"}
    scene.forks.at = {3: scene.stop}
    scene.run()
    assert not scene.forks.running
    assert [name for name, number in scene.forks.sent if number == signal.SIGKILL] == ["deliver:hook"]


@pytest.mark.parametrize(
    ("text", "reloaded"),
    [(MAPPING.replace("Paid", "Sold"), True), (MAPPING.replace("new.id", "new.("), False)],
    ids=["fits", "not"],
)
def test_a_reload_reaches_the_deliveries_where_the_mappings_load(scene: Scene, text: str, reloaded: bool) -> None:
    def reload() -> None:
        scene.mapping.write_text(text)
        scene.asked.reloading = True

    scene.forks.at = {3: reload, 100: scene.stop}
    scene.run()
    told = {name for name, number in scene.forks.sent if number == signal.SIGHUP}
    assert told == (set(ROLES[1:]) if reloaded else set())
    assert scene.forks.started.count("capture") == 1
