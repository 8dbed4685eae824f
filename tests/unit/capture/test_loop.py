"""The capture loop with a fault at each of its steps: real stores, and a server that gives again what was not confirmed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest

from cdc_tracker.capture import loop
from cdc_tracker.capture.loop import Capture
from cdc_tracker.config.settings import Retention, SourceSettings
from cdc_tracker.errors import CdcTrackerError, Fenced, JournalUnavailable, SourceUnavailable, StateUnavailable
from cdc_tracker.journal import Journal
from cdc_tracker.model import START, Lsn, Position, Segment
from cdc_tracker.sources.postgres.session import StartPoint
from cdc_tracker.sources.postgres.slot import Vitals
from cdc_tracker.state import Lock, State
from tests.unit.journal.samples import segment
from tests.unit.sources.slots import SLOT
from tests.unit.state.samples import RECORD

SEGMENTS = [segment(number) for number in range(1, 7)]
END = SEGMENTS[-1].last
SETTINGS = SourceSettings(url="postgresql://nowhere/", ack="journaled", heartbeat=0.001, outbox=None)  # type: ignore[arg-type]
UNAVAILABLE: dict[str, type[CdcTrackerError]] = {
    "journal": JournalUnavailable,
    "state": StateUnavailable,
    "session": SourceUnavailable,
    "stream": SourceUnavailable,
}
STEPS = (
    ("journal", "end"),
    ("state", "checkpoints.all"),
    ("state", "sources.get"),
    ("state", "reports.all"),
    ("session", "verify"),
    ("state", "sources.save"),
    ("session", "start"),
    ("stream", "receive"),
    ("journal", "append"),
    ("state", "sources.confirm"),
    ("stream", "feedback"),
    ("session", "vitals"),
    ("session", "refresh"),
    ("session", "heartbeat"),
    ("journal", "trim"),
    ("state", "jobs.all"),
    ("state", "reports.save"),
    ("stream", "wait"),
    ("stream", "finish"),
)


class Killed(BaseException):
    """What SIGKILL does, as far as the stores can tell."""


class Builder:
    """A frame is a whole segment here."""

    full = in_transaction = False
    commit_lsn = 0
    expected = None  # the server is known for the one that was left

    def __init__(self, after: Position) -> None:
        self.seen, self._held = after, list[Segment]()

    @property
    def count(self) -> int:
        return len(self._held)

    def add(self, frame: Segment) -> None:
        self._held.append(frame)
        self.seen, self.full = frame.last, True

    def close(self) -> Segment | None:
        self.full = False
        return self._held.pop() if self._held else None

    def idle_until(self, lsn: Lsn) -> None:
        pass


@dataclass
class Server:
    """What the slot keeps: everything after what was confirmed. It stands for session and stream, too.

    It looks into the stores by itself, to hold capture to what it says.
    """

    journal: Journal
    state: State
    confirmed: Lsn = 0
    plugin: str = "pgoutput"
    wal_end: Lsn = 0
    reply_due: bool = True
    asking: bool = False
    calls: int = 0
    _sending: list[Segment] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def verify(self, record: object, end: Position | None, lowest: object, times: object) -> StartPoint:
        assert (end or START).commit_lsn >= self.confirmed, "what was confirmed is not in the journal"
        return StartPoint(self.confirmed, timeline=2)

    def check_plugin(self) -> None:
        """Nothing is wrong with the server."""

    def builder(self, after: Position, newest: object) -> Builder:
        return Builder(after)

    def start(self, lsn: Lsn) -> Self:
        assert lsn >= self.confirmed
        self._sending = [each for each in SEGMENTS if each.last.commit_lsn > lsn]
        return self

    def receive(self) -> Segment | None:
        self.calls += 1
        assert self.calls < 2_000, "it does not come to an end"
        return self._sending.pop(0) if self._sending and self.calls % 2 else None

    def feedback(self, written: Lsn, confirmed: Lsn, ask: bool = False) -> None:
        """Confirmed is what the journal holds, and what the state store says was confirmed."""
        end, record = self.journal.end() or START, self.state.sources.get("main")
        assert record is not None
        assert confirmed <= min(end.commit_lsn, record.confirmed_lsn)
        self.confirmed = max(self.confirmed, confirmed)

    def vitals(self) -> Vitals:
        return Vitals(END.commit_lsn, replace(SLOT, confirmed_flush_lsn=self.confirmed))

    def refresh(self, builder: object) -> None:
        pass

    def heartbeat(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        pass

    def finish(self) -> None:
        pass


@dataclass
class Place:
    """Stores on disk, and the server; each run of capture opens the stores anew, as a process does."""

    folder: Path
    server: Server

    def _open(self) -> tuple[State, Journal]:
        place = f"sqlite:///{self.folder}"
        return State.open(f"{place}/state.sqlite"), Journal.open(f"{place}/journal.sqlite", "main")

    def run(self, prepare: Callable[[dict[str, Any], Lock], None] = lambda owners, lock: None) -> None:
        """Until everything is confirmed."""
        state, journal = self._open()
        with state, journal, state.lock("main.capture") as lock:
            state.claim(lock, "main")
            prepare({"state": state, "journal": journal, "session": self.server, "stream": self.server}, lock)
            Capture(
                settings=SETTINGS,
                needs={},
                journal=journal,
                state=state,
                destinations=["events"],
                retention=Retention(),
                stop=lambda: lock.lost is not None or self.server.confirmed >= END.commit_lsn,
                verify=lock.check,
            ).run()
            lock.check()

    def stored(self) -> list[Segment]:
        return self.server.journal.read(START, 100)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of a source that was set up: migrated once."""
    folder = tmp_path_factory.mktemp("stores")
    state, journal = Place(folder, None)._open()  # type: ignore[arg-type]
    with state, journal:
        state.sources.save(replace(RECORD, confirmed_lsn=0, created_lsn=0))
        state.checkpoints.create("main", "events", Position(0, -1))
    return folder


@pytest.fixture
def place(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    shutil.copytree(stores, tmp_path, dirs_exist_ok=True)
    for name in ("GROUP", "FEEDBACK", "VITALS", "TRIM"):
        monkeypatch.setattr(loop, name, 0.0)
    monkeypatch.setattr("cdc_tracker.capture.monitor.REPORT", 0.0)
    monkeypatch.setattr(Capture, "_sleep", lambda _self, _seconds: None)
    state, journal = Place(tmp_path, None)._open()  # type: ignore[arg-type]
    with state, journal:
        made = Place(tmp_path, Server(journal, state))
        monkeypatch.setattr(loop, "Session", lambda settings, needs: made.server)
        yield made


def _at(step: tuple[str, str], when: str, number: int, act: Callable[[], None]) -> Callable[[dict[str, Any], Lock], None]:
    """Do it before or after that call of the step."""
    owner, path = step
    part, _, name = path.rpartition(".")

    def prepare(owners: dict[str, Any], lock: Lock) -> None:
        at = getattr(owners[owner], part) if part else owners[owner]
        original, calls = getattr(at, name), 0

        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number and when == "before":
                act()
            result = original(*arguments, **named)
            if calls == number and when == "after":
                act()
            return result

        setattr(at, name, called)

    return prepare


@pytest.fixture(params=STEPS, ids=[f"{owner}.{name}" for owner, name in STEPS])
def step(request: pytest.FixtureRequest, place: Place) -> Iterator[tuple[str, str]]:
    found: tuple[str, str] = request.param
    yield found
    place.server.__dict__.pop(found[1], None)


@pytest.mark.invariant(1)
@pytest.mark.parametrize(("when", "number"), [("after", 1), ("before", 2)])
def test_a_passing_fault_at_any_step_loses_and_doubles_nothing(
    place: Place, step: tuple[str, str], when: str, number: int
) -> None:
    def fail() -> None:
        raise UNAVAILABLE[step[0]]("as it was told")

    place.run(_at(step, when, number, fail))
    assert place.stored() == SEGMENTS


@pytest.mark.parametrize(("when", "number"), [("after", 1), ("after", 2)])
def test_killed_at_any_step_the_next_one_loses_and_doubles_nothing(
    place: Place, step: tuple[str, str], when: str, number: int
) -> None:
    def kill() -> None:
        raise Killed

    with contextlib.suppress(Killed):
        place.run(_at(step, when, number, kill))
    place.server.__dict__.pop(step[1], None)
    place.run()
    assert place.stored() == SEGMENTS


@pytest.mark.invariant(14)
@pytest.mark.parametrize(("when", "number"), [("before", 1), ("after", 2)])
def test_one_that_loses_its_lock_at_any_step_journals_and_confirms_nothing_more(
    place: Place, step: tuple[str, str], when: str, number: int
) -> None:
    held: list[Lock] = []
    then: list[tuple[list[Segment], Any]] = []

    def lose() -> None:
        held[0].lost = Fenced("another has it")
        then.append((place.stored(), place.server.state.sources.get("main")))

    def prepare(owners: dict[str, Any], lock: Lock) -> None:
        held.append(lock)
        _at(step, when, number, lose)(owners, lock)

    if not _fenced(place, prepare):
        assert not then, "it went on without its lock"
        return
    ((stored, record),) = then
    under_way = (step, when) == (("journal", "append"), "before")  # what follows on what is there, whoever appends it
    assert place.stored() == SEGMENTS[: len(stored) + under_way]
    assert place.server.state.sources.get("main") == record


def _fenced(place: Place, prepare: Callable[[dict[str, Any], Lock], None]) -> bool:
    try:
        place.run(prepare)
    except Fenced:
        return True
    return False


@pytest.mark.invariant(14)
def test_what_another_has_journaled_meanwhile_is_neither_lost_nor_doubled(place: Place) -> None:
    def other() -> None:
        with Journal.open(f"sqlite:///{place.folder}/journal.sqlite", "main") as journal:
            journal.append(SEGMENTS[2:4])

    with pytest.raises(Fenced, match="another process appends to it"):
        place.run(_at(("journal", "append"), "after", 2, other))
    place.run()
    assert place.stored() == SEGMENTS
