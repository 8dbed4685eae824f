"""Journal and state store in a real PostgreSQL: the whole suites, and what only a server can do."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator

import pytest

from cdc_tracker.errors import Fenced, JournalUnavailable, StateUnavailable, Stop
from cdc_tracker.journal import Journal
from cdc_tracker.journal.sql import tables as journal_tables
from cdc_tracker.journal.sql.store import KIND as JOURNAL
from cdc_tracker.model import START, Position
from cdc_tracker.state import State
from cdc_tracker.state import tables as state_tables
from cdc_tracker.state.store import KIND as STATE
from tests.postgres import Database, Server, fresh_database
from tests.unit.journal.samples import segment
from tests.unit.journal.suite import JournalSuite
from tests.unit.state.suite import StateSuite


@pytest.fixture
def database(pg18: Server) -> Iterator[Database]:
    with fresh_database(pg18) as made:
        yield made


@pytest.fixture
def url(database: Database) -> str:
    return database.url


class TestJournalInPostgres(JournalSuite):
    """The whole suite."""


class TestStateInPostgres(StateSuite):
    """The whole suite."""


def _end_sessions(database: Database, like: str) -> None:
    database.server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{database.name}' AND pid <> pg_backend_pid() AND application_name LIKE '{like}'"
    )


def test_both_stores_live_in_one_database_under_prefixed_names(url: str, database: Database) -> None:
    Journal.open(url, "main").close()
    State.open(url.replace("postgresql://", "postgres://")).close()
    State.open(url.replace("postgresql://", "postgresql+psycopg://")).close()
    made = database.value("SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = 'public'")
    assert isinstance(made, list)
    versions = {STATE.version_table, JOURNAL.version_table}
    assert set(made) == {*state_tables.metadata.tables, *journal_tables.metadata.tables, *versions}
    assert all(name.startswith("cdc_tracker_") for name in made)


def test_after_its_sessions_were_ended_the_journal_goes_on(url: str, database: Database) -> None:
    with Journal.open(url, "main") as journal:
        journal.append([segment(1)])
        assert journal.read(START, 5) == [segment(1)]
        _end_sessions(database, "cdc-tracker%")
        with pytest.raises(JournalUnavailable):
            journal.append([segment(2)])
        with pytest.raises(JournalUnavailable):
            journal.read(START, 5)
        journal.append([segment(2)])
        assert journal.read(START, 5) == [segment(1), segment(2)]


def test_a_waiter_whose_session_was_ended_says_so_and_then_listens_again(url: str, database: Database) -> None:
    with Journal.open(url, "main") as journal, Journal.open(url, "main") as reader, reader.waiter("reader") as waiter:
        _end_sessions(database, "cdc-tracker%")
        with pytest.raises(JournalUnavailable):
            waiter.wait(5)
        with pytest.raises(JournalUnavailable):
            journal.append([segment(1)])
        journal.append([segment(1)])
        assert waiter.wait(5)  # whatever came meanwhile was not heard, so it is assumed
        assert not waiter.wait(0.05)
        journal.append([segment(2)])
        assert waiter.wait(5)


def test_commits_are_durable_where_the_server_s_default_is_not(url: str, database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    with Journal.open(url, "main") as journal, journal._database.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = remote_write")
    with Journal.open(url, "main") as journal, journal._database.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "remote_write"


def test_a_wrong_password_is_unavailable_and_shown_nowhere(database: Database) -> None:
    database.execute("DROP ROLE IF EXISTS storekeeper; CREATE ROLE storekeeper LOGIN PASSWORD 'right-one' IN ROLE with_password")
    try:
        wrong = "hunter2"
        with pytest.raises(StateUnavailable, match="password authentication failed") as raised:
            State.open(database.url_as("storekeeper", password=wrong, tcp=True))
        shown = "".join(traceback.format_exception(raised.value)) + raised.value.hint
        assert wrong not in shown
        with pytest.raises(StateUnavailable) as raised:
            State.open(f"{database.url_as('storekeeper', tcp=True)}?password={wrong}")
        assert wrong not in "".join(traceback.format_exception(raised.value))
    finally:
        database.execute("DROP ROLE storekeeper")


def test_a_role_that_may_not_create_tables_stops_with_what_to_grant(database: Database) -> None:
    database.execute("DROP ROLE IF EXISTS storekeeper; CREATE ROLE storekeeper LOGIN")
    database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with pytest.raises(Stop, match="permission denied") as raised:
            State.open(database.url_as("storekeeper"))
        assert "Grant" in raised.value.hint
    finally:
        database.execute("DROP ROLE storekeeper")


def test_a_database_that_is_not_there_is_unavailable(pg18: Server) -> None:
    with pytest.raises(JournalUnavailable, match="does not exist"):
        Journal.open(pg18.url("no_such_database"), "main")


def test_a_read_only_server_is_unavailable(url: str, database: Database) -> None:
    State.open(url).close()
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    with State.open(url) as state, pytest.raises(StateUnavailable, match="read-only") as raised:
        state.checkpoints.create("main", "jsonl", Position(1, 0))
    assert "standby" in raised.value.hint


def test_two_writers_of_one_source_do_not_mix_their_segments(url: str) -> None:
    """Capture's lock prevents it; should that fail, one of them is refused and what is stored stays in order."""
    refused: list[BaseException] = []

    def append(numbers: range) -> None:
        with Journal.open(url, "main") as journal:
            for number in numbers:
                try:
                    journal.append([segment(number)])
                except (Stop, Fenced) as error:
                    refused.append(error)

    writers = [threading.Thread(target=append, args=[range(start, 200, 2)], daemon=True) for start in (1, 2)]
    with Journal.open(url, "main") as journal:
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        stored = [found.first for found in journal.read(START, 1000)]
        horizon = journal.horizon()
        assert horizon is not None
        assert horizon.segments == len(stored) == 199 - len(refused)
        assert stored == sorted(set(stored))
