"""Advisory locks in a real PostgreSQL: whatever ends or holds up the session, the lock is kept, or known to be lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from cdc_tracker.errors import AlreadyRunning, Fenced, StateUnavailable, Stop
from cdc_tracker.state import Lock, State, locks
from tests.crash.proxy import Proxy
from tests.postgres import Database, Server, fresh_database
from tests.unit.state.samples import unwatched  # noqa: F401
from tests.worker import until


@pytest.fixture
def database(pg18: Server) -> Iterator[Database]:
    with fresh_database(pg18) as made:
        yield made


@pytest.fixture
def state(database: Database) -> Iterator[State]:
    with State.open(database.url) as opened:
        yield opened


@pytest.fixture
def other(database: Database) -> Iterator[State]:
    with State.open(database.url) as opened:
        yield opened


def _end_locks(database: Database) -> None:
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid() "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


def _holders(database: Database) -> object:
    return database.value(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database "
        "WHERE datname = current_database())"
    )


def test_a_lock_whose_session_was_ended_is_taken_again_at_once(state: State, database: Database) -> None:
    with state.lock("capture") as held:
        for _ in range(3):
            _end_locks(database)
            until(lambda: _holders(database) == 1, "it is held again", seconds=20)
            held.verify()
            assert held.lost is None


@pytest.mark.usefixtures("unwatched")
def test_a_lock_that_another_has_taken_meanwhile_is_lost_for_good(state: State, other: State, database: Database) -> None:
    with state.lock("capture") as held:
        _end_locks(database)
        with other.lock("capture", wait=20) as taken, pytest.raises(Fenced, match="lock on capture was lost, and process"):
            held.verify()
        assert taken.lost is None
        with pytest.raises(Fenced):
            held.check()


def test_a_lock_that_is_lost_is_known_without_being_asked_for(
    state: State, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with state.lock("capture") as held:
        monkeypatch.setattr(held, "_take", lambda: False)  # another has it by then
        _end_locks(database)
        until(lambda: held.lost is not None, "it is known to be lost", seconds=20)


def test_one_that_stands_by_leaves_a_lock_alone_that_is_free_for_a_moment(state: State, other: State, database: Database) -> None:
    with state.lock("capture") as held:
        standing = other.lock("capture", wait=0, grace=3.0)
        waiting = threading.Thread(target=_expect_already_running, args=[standing])
        waiting.start()
        until(lambda: standing._driver is not None, "it stands by", seconds=20)  # type: ignore[attr-defined]
        for _ in range(5):
            _end_locks(database)
            until(lambda: _holders(database) == 1, "it is held again", seconds=20)
        waiting.join(60)
        assert held.lost is None
    with other.lock("capture", wait=5, grace=0.5):
        pass


def _expect_already_running(lock: Lock) -> None:
    with pytest.raises(AlreadyRunning):
        lock.__enter__()


@pytest.mark.usefixtures("unwatched")
def test_a_server_that_does_not_answer_holds_nobody_up_and_takes_no_lock_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "ANSWER", 0.5)
    with Proxy(database.server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database.name}?connect_timeout=2"
        with State.open(url) as state, state.lock("capture") as held:
            proxy.hold()
            with pytest.raises(StateUnavailable):
                held.verify()
            assert held.lost is None
            proxy.release()
            held.verify()


def test_settings_for_applications_end_no_session_of_ours(database: Database) -> None:
    for name in ("idle_session_timeout", "idle_in_transaction_session_timeout", "transaction_timeout", "statement_timeout"):
        database.execute(f"ALTER DATABASE {database.name} SET {name} = '300ms'")
    with State.open(database.url) as state, state.lock("capture") as held:
        session = held._session  # type: ignore[attr-defined]
        time.sleep(1)
        held.verify()
        assert held._session == session  # type: ignore[attr-defined]
        with state._database.writing() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(0.5)")
            time.sleep(0.5)


@pytest.mark.usefixtures("unwatched")
def test_a_pooler_that_gives_our_session_to_others_is_refused(state: State, other: State) -> None:
    with state.lock("capture") as held, other.lock("deliver") as second:
        held._driver, second._driver = second._driver, held._driver  # type: ignore[attr-defined]
        with pytest.raises(Stop, match="a pooler gives its session to others") as raised:
            held.verify()
        assert "pool_mode=session" in raised.value.hint
        assert not held.held()


def test_a_lock_s_session_is_freed_with_it(state: State, database: Database) -> None:
    with state.lock("capture"):
        assert _holders(database) == 1
    until(lambda: _holders(database) == 0, "it is free", seconds=20)
