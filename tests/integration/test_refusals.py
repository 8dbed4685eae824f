"""Every state that `run` refuses: it stops and says so, `check` tells it before, and `repair` has an answer, which is tried."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

from cdc_tracker import errors
from cdc_tracker.capture import loop
from cdc_tracker.errors import Stop
from cdc_tracker.model import parse_lsn
from cdc_tracker.refusals import Refusal
from cdc_tracker.sources.postgres import connection, faults, replication, session, slot, verify
from cdc_tracker.worker import assemble, roles
from tests.crash import items
from tests.crash.scene import JSONL, Scene
from tests.missing import leave_out
from tests.postgres import Database, Server, fresh_database, launch
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")


@dataclass
class Case:
    """What brings a source that has worked into the state. `server`: which one it takes; `said`: words of the message."""

    make: Callable[[Scene, ExitStack], None]
    said: str
    server: str = "pg18"
    plugin: str = "auto"


def _record(**changes: object) -> Callable[[Scene, ExitStack], None]:
    def make(scene: Scene, _stack: ExitStack) -> None:
        with scene.state() as state:
            record = state.sources.get("main")
            assert record is not None
            state.sources.save(replace(record, **changes))  # type: ignore[arg-type]

    return make


def _sql(*statements: str) -> Callable[[Scene, ExitStack], None]:
    def make(scene: Scene, _stack: ExitStack) -> None:
        for statement in statements:
            scene.database.execute(statement.format(slot=scene.slot))

    return make


def _forget(scene: Scene, _stack: ExitStack) -> None:
    with scene.state() as state:
        state.forget("main")


def _never_set_up(scene: Scene, stack: ExitStack) -> None:
    _forget(scene, stack)
    _sql("SELECT pg_drop_replication_slot('{slot}')")(scene, stack)


def _another_worker(scene: Scene, stack: ExitStack) -> None:
    stack.enter_context(scene.state()).lock("main.worker").__enter__()


def _another_reader(scene: Scene, stack: ExitStack) -> None:
    scene.tune(**{"capture.loop__BUSY": 0.5})
    reader = stack.enter_context(replication.ReplicationStream(scene.database.url, application_name="the-other"))
    reader.start(scene.slot, 0, {"proto_version": "1", "publication_names": scene.slot})


def _not_let_in(scene: Scene, stack: ExitStack) -> None:
    user = f"u_{scene.database.name}"
    scene.database.execute(f"CREATE ROLE {user} LOGIN REPLICATION PASSWORD 'right' IN ROLE with_password")
    stack.callback(scene.database.execute, f"DROP ROLE {user}")
    scene.worker.environment = {"CDC_TRACKER_SOURCE__URL": scene.database.url_as(user, password="wrong", tcp=True)}


def _another_database(scene: Scene, stack: ExitStack) -> None:
    other = stack.enter_context(fresh_database(scene.database.server))
    items.make(other)
    scene.worker.environment = {"CDC_TRACKER_SOURCE__URL": other.url}


def _lost_wal(scene: Scene, _stack: ExitStack) -> None:
    server = scene.database.server
    server.configure(max_slot_wal_keep_size="1MB")
    for _ in range(4):
        scene.database.execute(
            "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 20000); DROP TABLE filler"
        )
        server.execute("SELECT pg_switch_wal()")
        server.execute("CHECKPOINT")
    assert server.value("SELECT bool_or(wal_status = 'lost') FROM pg_replication_slots") is True


def _lose_journal(scene: Scene, stack: ExitStack) -> None:
    """The slot is past the checkpoint, and the journal held more than it does."""
    _sql("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")(scene, stack)
    confirmed = scene.database.value(f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{scene.slot}'")
    held = scene.checkpoint("events").position.commit_lsn + 8
    _record(confirmed_lsn=parse_lsn(str(confirmed)), journaled_lsn=held)(scene, stack)


def _publication_dropped(scene: Scene, _stack: ExitStack) -> None:
    _sql("DROP PUBLICATION {slot}", "DROP PUBLICATION {slot}_inserts")(scene, _stack)


def _publication_made_anew(scene: Scene, stack: ExitStack) -> None:
    _publication_dropped(scene, stack)
    items.insert(scene.database, 2)
    _sql("CREATE PUBLICATION {slot} FOR TABLE shop.items", "CREATE PUBLICATION {slot}_inserts")(scene, stack)


def _undecodable(*writers: int) -> Callable[[Scene, ExitStack], None]:
    """A row filter that divides by zero fails in the server, whenever it comes to the row of the writer 7."""
    rows = ", ".join(f"({writer})" for writer in writers)
    return _sql(
        "ALTER PUBLICATION {slot} SET TABLE shop.items WHERE (10 / (writer - 7) > -100)",
        f"INSERT INTO shop.items (writer) VALUES {rows}",
    )


CASES: dict[Refusal, Case] = {
    Refusal.NOT_LET_IN: Case(_not_let_in, "password authentication failed"),
    Refusal.SERVER_CANNOT: Case(_sql("ALTER TABLE shop.items RENAME TO things"), "", server="none"),
    Refusal.PLUGIN_MISSING: Case(lambda scene, stack: None, "", server="none"),
    Refusal.PLUGIN_UNFIT: Case(lambda scene, stack: None, "", server="none"),
    Refusal.NOT_SET_UP: Case(_never_set_up, "knows nothing of the source"),
    Refusal.STATE_MISSING: Case(_forget, "knows nothing of the source"),
    Refusal.ALREADY_RUNNING: Case(_another_worker, "held by process"),
    Refusal.OTHER_SERVER: Case(_record(system_id="1"), "another server"),
    Refusal.OTHER_DATABASE: Case(_another_database, "leads to the database"),
    Refusal.WAL_BEHIND: Case(_record(confirmed_lsn=1 << 60), "the server's WAL ends at"),
    Refusal.TIMELINE_LEFT: Case(lambda scene, stack: None, "", server="none"),
    Refusal.OLD_PRIMARY: Case(_record(timeline=7), "an old primary has come back"),
    Refusal.OTHER_HISTORY: Case(lambda scene, stack: None, "", server="none"),
    Refusal.SLOT_MISSING: Case(_sql("SELECT pg_drop_replication_slot('{slot}')"), "is gone"),
    Refusal.SLOT_LOST: Case(_lost_wal, "invalidated the replication slot", server="own"),
    Refusal.SLOT_FOREIGN: Case(
        _sql("SELECT pg_drop_replication_slot('{slot}')", "SELECT pg_create_physical_replication_slot('{slot}')"),
        "a physical slot",
    ),
    Refusal.SLOT_MOVED: Case(
        _sql("INSERT INTO shop.items (writer) VALUES (3)", "SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"),
        "was moved to",
    ),
    Refusal.SLOT_BUSY: Case(_another_reader, "the-other"),
    Refusal.CHECKPOINT_GAP: Case(_lose_journal, "is missing"),
    Refusal.START_TOO_LOW: Case(lambda scene, stack: None, "", server="none"),
    Refusal.PUBLICATION_MISSING: Case(_publication_dropped, "does not exist", plugin="pgoutput"),
    Refusal.PUBLICATION_LOST: Case(_publication_made_anew, "does not exist", server="pg15", plugin="pgoutput"),
    Refusal.UNDECODABLE: Case(_undecodable(8, 7, 8), "cannot decode the transaction that commits at", plugin="pgoutput"),
}
ELSEWHERE = {
    Refusal.SERVER_CANNOT: "errors of single queries: tests/unit/sources/test_faults.py",
    Refusal.PLUGIN_MISSING: "a library removed from the server: test_a_plugin_that_is_gone_is_told below",
    Refusal.PLUGIN_UNFIT: "a partitioned table, wal2json: tests/integration/test_worker_changeover.py",
    Refusal.TIMELINE_LEFT: "two servers: tests/integration/test_worker_stops.py",
    Refusal.OTHER_HISTORY: "two servers: tests/integration/test_worker_restored.py",
    Refusal.START_TOO_LOW: "asked for by nobody but the code: tests/unit/sources/test_verify.py",
}
WALKED = [refusal for refusal in Refusal if refusal not in ELSEWHERE]


@pytest.fixture
def stack() -> ExitStack:  # type: ignore[misc]
    with ExitStack() as opened:
        yield opened


def _database(case: Case, servers: object, stack: ExitStack) -> Database:
    if case.server == "own":
        return stack.enter_context(fresh_database(stack.enter_context(launch("pg18"))))
    server: Server = servers.get(case.server)  # type: ignore[attr-defined]
    return stack.enter_context(fresh_database(server))


def _commands(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"`cdc-tracker ([a-z-]+)((?: --[a-z-]+)*)`", text))


def _known_commands(scene: Scene, text: str) -> None:
    for command, flags in _commands(text):
        told = scene.worker.ended(command, "--help")
        assert told.returncode == 0 and all(flag in told.stdout for flag in flags.split()), f"{command}{flags} does not exist"


@pytest.mark.invariant(10)
@pytest.mark.parametrize("refusal", WALKED, ids=[refusal.name for refusal in WALKED])
def test_what_run_refuses_is_told_by_check_and_answered_by_repair(
    refusal: Refusal, servers: object, stack: ExitStack, tmp_path: Path
) -> None:
    case = CASES[refusal]
    scene = Scene(_database(case, servers, stack), tmp_path, case.plugin, {"events": JSONL})
    items.insert(scene.database, 3)
    with scene.running():
        scene.await_all()
    case.make(scene, stack)
    ended = scene.worker.ended("run")
    assert ended.returncode == 3, f"{ended.returncode}\n{ended.stderr}"
    assert case.said in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    _known_commands(scene, ended.stderr)
    _told_by_check(scene, refusal, case)
    _answered_by_repair(scene, refusal, stack)


def _told_by_check(scene: Scene, refusal: Refusal, case: Case) -> None:
    checked = scene.worker.ended("check", "--json")
    found = [each for each in json.loads(checked.stdout)["findings"] if each["severity"] != "ok"]
    said = " ".join(f"{each['message']} {each['hint']}" for each in found)
    if refusal.mend == "wait":  # as it should be: the holder works
        assert checked.returncode == 0 or refusal.name in said
        return
    if refusal is Refusal.NOT_SET_UP:  # as it is before the first `setup`: no error yet
        assert "`cdc-tracker setup`" in said
        return
    assert checked.returncode == 1, checked.stdout
    assert case.said in said or refusal is Refusal.STATE_MISSING, said
    _known_commands(scene, said)


def _answered_by_repair(scene: Scene, refusal: Refusal, stack: ExitStack) -> None:
    mended = scene.worker.ended("repair", "--yes")
    output = mended.stdout + mended.stderr
    assert "Traceback" not in output
    if refusal.mend == "wait":
        assert mended.returncode == 0, output
    elif refusal.mend == "a person":
        assert mended.returncode == 3, output
        assert _commands(output) or "source.url" in output or "name of its own" in output, output
        _known_commands(scene, output)
    else:
        assert mended.returncode == 0, output
        assert "Repaired" in output
        _goes_on(scene)
        again = scene.worker.ended("repair")
        assert "Nothing to repair" in again.stdout, again.stdout + again.stderr


def _goes_on(scene: Scene) -> None:
    with scene.running() as process:
        n = items.mark(scene.database)
        until(lambda: scene.has("events", n), "what is written afterwards arrives")
        assert process.poll() is None


def test_every_refusal_has_a_case_or_a_test_elsewhere() -> None:
    assert set(CASES) | set(ELSEWHERE) == set(Refusal)
    assert all(case.server != "none" for refusal, case in CASES.items() if refusal not in ELSEWHERE)
    assert all(refusal.means for refusal in Refusal)


ASKED_BY_PEOPLE = {"create"}
"""Functions of the modules below that `setup` and `check` call, and `run` does not."""


@pytest.mark.parametrize(
    "module", [loop, assemble, roles, connection, faults, replication, session, slot, verify], ids=lambda module: module.__name__
)
def test_whatever_run_stops_with_is_in_the_list(module: ModuleType) -> None:
    """An error that stops it is made by `Refusal.NAME.error`, so that a new one has to be answered."""
    stops = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Stop)}
    allowed = {
        "ConfigError",
        "MappingError",
        "Stop",
    }  # files that do not load, and the supervisor's own last word
    tree = ast.parse(inspect.getsource(module))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in ASKED_BY_PEOPLE:
            function.body = []
    made = {
        (node.func.id, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in stops - allowed
    }
    assert made == set()


def test_only_the_transaction_that_cannot_be_decoded_is_passed_over(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "pgoutput", {"events": JSONL})
    items.insert(database, 3)
    _undecodable(8, 7, 8)(scene, ExitStack())
    items.insert(database, 4)
    assert scene.worker.ended("run").returncode == 3
    asked = scene.worker.ended("repair", "--json")
    assert json.loads(asked.stdout)["problems"][0]["code"] == "undecodable"
    mended = scene.worker.ended("repair", "--yes")
    assert mended.returncode == 0 and "events: nothing was read that committed between" in mended.stdout, mended.stderr
    _goes_on(scene)
    assert scene.differences("events") == {"lost": 2}  # of the three rows the first had come


def test_where_the_server_does_not_say_which_transaction_it_is_a_new_slot_goes_on(database: Database, tmp_path: Path) -> None:
    scene = Scene(database, tmp_path, "pgoutput", {"events": JSONL})
    _undecodable(7)(scene, ExitStack())
    items.insert(database, 4)
    assert scene.worker.ended("run").returncode == 3
    mended = scene.worker.ended("repair", "--yes")
    assert mended.returncode == 0 and "nothing was read that committed between" in mended.stdout, mended.stderr
    _goes_on(scene)
    assert scene.differences("events") == {"lost": 5}


def test_a_plugin_that_is_gone_is_told(tmp_path: Path) -> None:
    with launch("pg15") as server, fresh_database(server) as database:
        if not server.has_wal2json:
            leave_out("wal2json: apt-get install postgresql-15-wal2json")
        scene = Scene(database, tmp_path, "wal2json", {"events": JSONL})
        server.configure(dynamic_library_path="/nowhere")
        for command, code in (("run", 3), ("check", 1), ("repair", 3), ("setup", 3)):
            ended = scene.worker.ended(command, *(["--yes"] if command in ("repair", "setup") else []))
            assert ended.returncode == code, f"{command}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
            assert "postgresql-NN-wal2json" in " ".join((ended.stdout + ended.stderr).split())
        server.configure(dynamic_library_path=None)
        _goes_on(scene)


def test_wal_that_was_reset_is_a_lost_slot(tmp_path: Path) -> None:
    with launch("pg18") as server, fresh_database(server) as database:
        scene = Scene(database, tmp_path, "auto", {"events": JSONL})
        items.insert(database, 3)
        with scene.running():
            scene.await_all()
        server.stop()
        server.run("pg_resetwal", "-f", "-D", str(server.data))
        server.start()
        items.insert(database, 3)
        ended = scene.worker.ended("run")
        assert ended.returncode == 3 and "`cdc-tracker repair`" in ended.stderr, ended.stderr
        assert scene.worker.ended("check").returncode == 1
        mended = scene.worker.ended("repair", "--yes")
        assert mended.returncode == 0 and "nothing was read that committed between" in mended.stdout, (
            mended.stdout + mended.stderr
        )
        _goes_on(scene)
