"""A server that does not let the worker in, or is not there: what it says, how it ends, and that no password is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import items
from tests.crash.scene import JSONL, Scene
from tests.postgres import Database, fresh_database, launch
from tests.worker import until

SECRET = "hunter2-is-no-password"
URL = "CDC_TRACKER_SOURCE__URL"


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Scene:
    return Scene(database, tmp_path, "auto", {"events": JSONL})


def _refused(scene: Scene, url: str, *said: str) -> None:
    scene.worker.environment = {URL: url}
    ended = scene.worker.ended("run")
    output = ended.stdout + ended.stderr
    assert ended.returncode == 3, f"{ended.returncode}\n{output}"
    assert SECRET not in output and "Traceback" not in output
    for words in said:
        assert words in output, output


@pytest.mark.servers("pg18")
def test_a_wrong_password(scene: Scene) -> None:
    user = f"u_{scene.database.name}"
    scene.database.execute(f"CREATE ROLE {user} LOGIN REPLICATION PASSWORD 'right' IN ROLE with_password")
    try:
        url = scene.database.url_as(user, password=SECRET, tcp=True)
        _refused(scene, url, "password authentication failed", "check user and password in source.url")
    finally:
        scene.database.execute(f"DROP ROLE {user}")


@pytest.mark.servers("pg15", "pg18")
def test_a_role_without_the_right_to_replicate(scene: Scene) -> None:
    user = f"u_{scene.database.name}"
    scene.database.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRET}'")
    try:
        _refused(scene, scene.database.url_as(user, password=SECRET, tcp=True), "ALTER ROLE … REPLICATION")
    finally:
        scene.database.execute(f"DROP ROLE {user}")


@pytest.mark.servers("pg18")
def test_a_database_that_does_not_exist(scene: Scene) -> None:
    url = scene.database.server.url("nowhere", password=SECRET, tcp=True)
    _refused(scene, url, 'database "nowhere" does not exist', "correct the database's name in source.url")


@pytest.mark.servers("pg18")
@pytest.mark.parametrize("url", [f"postgresql://u:{SECRET}@h/d?nonsense=1", f"host=h password={SECRET} 'open"])
def test_a_url_that_is_none(scene: Scene, url: str) -> None:
    scene.worker.environment = {URL: url}
    ended = scene.worker.ended("run")
    assert ended.returncode == 3 and "source.url" in ended.stderr, ended.stderr
    assert SECRET not in ended.stdout + ended.stderr and "Traceback" not in ended.stderr


def test_a_server_that_is_down_is_waited_for(tmp_path: Path) -> None:
    with launch("pg18") as server, fresh_database(server) as database:
        scene = Scene(database, tmp_path, "auto", {"events": JSONL})
        items.insert(database, 5)
        server.stop()
        with scene.running() as process:
            until(lambda: "stream interrupted" in scene.worker.log, "it has tried")
            assert process.poll() is None
            server.start()
            scene.await_all()
        scene.check()
