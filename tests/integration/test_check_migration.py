"""`check --migration`: what each of many migrations would break, tried in scratch databases."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cdc_tracker.cli import cli
from cdc_tracker.config.config import Config
from cdc_tracker.errors import Problem
from cdc_tracker.operations import snapshot
from cdc_tracker.operations.migration import check_migration, script
from cdc_tracker.worker.assemble import load_config
from tests.postgres import Server, fresh_database
from tests.worker import until

DATA = yaml.safe_load((Path(__file__).parent / "migrations.yml").read_text())
CONFIG = """\
version: 1
source: {{url: "{url}", plugin: pgoutput}}
mappings: [mappings.yml{more}]
destinations: {{events: {{type: memory}}}}
"""
KEYS = {"name", "sql", "breaks", "silent", "says", "never", "mapping", "fails"}


@pytest.fixture(scope="module")
def catalog(pg15: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The saved catalog of the schema."""
    folder = tmp_path_factory.mktemp("catalog")
    with fresh_database(pg15) as database:
        database.execute(DATA["schema"])
        config = configured(folder, url=database.url)
        snapshot.write(snapshot.take(config), folder / "catalog.json")
    yield folder / "catalog.json"


def configured(folder: Path, *, url: str = "postgresql://nobody@127.0.0.1:1/nowhere", mapping: str = "") -> Config:
    (folder / "mappings.yml").write_text(DATA["mappings"])
    (folder / "more.yml").write_text(mapping)
    (folder / "cdc-tracker.yml").write_text(CONFIG.format(url=url, more=", more.yml" if mapping else ""))
    return load_config(folder / "cdc-tracker.yml")


def test_the_cases_are_many_and_say_what_is_right() -> None:
    assert len(DATA["cases"]) >= 60
    assert len({case["name"] for case in DATA["cases"]}) == len(DATA["cases"])
    assert all(case.keys() <= KEYS for case in DATA["cases"])


@pytest.mark.parametrize("case", DATA["cases"], ids=[case["name"].replace(" ", "-") for case in DATA["cases"]])
def test_a_migration_is_judged_rightly(
    case: dict[str, Any], catalog: Path, pg18: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "migration.sql").write_text(case["sql"])
    config = configured(tmp_path, mapping=case.get("mapping", ""))
    monkeypatch.chdir(tmp_path)
    found = list(check_migration(config, [script(Path("migration.sql"))], schema=catalog, url=pg18.url()))
    shown = "\n".join(f"{each.severity} {each}" for each in found)
    errors = [each for each in found if each.severity == "error"]
    if "fails" in case:
        assert [case["fails"] in each.message for each in errors] == [True], shown
        assert "Nothing was compared." in errors[0].hint
        return
    assert events(errors, "fall silent|break") == set(case.get("breaks", ())), shown
    assert events(errors, "fall silent") == set(case.get("silent", ())), shown
    assert [text for text in case.get("says", ()) if not any(text in str(each) for each in found)] == [], shown
    assert [text for text in case.get("never", ()) if text in shown] == [], shown
    assert bool(errors) == bool(case.get("breaks")), shown


def events(found: list[Problem], verdict: str) -> set[str]:
    named = [match[1] for each in found if (match := re.match(rf"(.+?) would (?:{verdict}): ", each.message))]
    return {name for names in named for name in re.split(r", | and \d+ more", names) if name}


# The embedded server


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`check --migration` with its temporary files marked by the environment of its processes."""
    return subprocess.Popen(
        [sys.executable, "-m", "cdc_tracker", "check", "--migration", "migration.sql", *arguments],
        cwd=folder,
        env={**os.environ, "TRIAL": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def running(folder: Path) -> list[int]:
    """Processes that a trial in the folder has started and that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"TRIAL={folder}".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def servers(folder: Path) -> list[Path]:
    """The folders of their servers, by their arguments."""
    found = set()
    for pid in running(folder):
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            found |= {Path(each) for each in arguments if re.fullmatch(r"/tmp/cdc-pg-\w+", each)}
    return sorted(found)


EXTENDED = """
    CREATE EXTENSION citext; CREATE EXTENSION "uuid-ossp";
    CREATE TABLE public.people (id uuid PRIMARY KEY DEFAULT uuid_generate_v4(), email citext NOT NULL UNIQUE)
"""
PEOPLE = """\
version: 1
events:
  - {name: Person Known, table: public.people, user_id: new.id, properties: {email: new.email}}
"""


def test_an_embedded_server_knows_common_extensions_and_gets_the_roles_that_are_named(pg15: Server, tmp_path: Path) -> None:
    with fresh_database(pg15) as database:
        database.execute(EXTENDED)
        snapshot.write(snapshot.take(configured(tmp_path, url=database.url, mapping=PEOPLE)), tmp_path / "c.json")
    (tmp_path / "mappings.yml").write_text("version: 1\nevents: []\n")
    (tmp_path / "migration.sql").write_text(
        'CREATE EXTENSION IF NOT EXISTS "pgcrypto"; GRANT SELECT ON people TO "read er", writer;'
        "ALTER TABLE people RENAME email TO mail; ALTER TABLE people OWNER TO owner;"
    )
    process = command(tmp_path, "--schema", "c.json", "--json")
    output, _ = process.communicate(timeout=120)
    found = json.loads(output)
    assert process.returncode == 1
    errors = [each["message"] for each in found["findings"] if each["severity"] == "error"]
    assert len(errors) == 1 and "Person Known would break: " in errors[0] and "has no column 'email'" in errors[0]
    assert running(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_or_killed_it_leaves_neither_process_nor_folder(number: int, catalog: Path, tmp_path: Path) -> None:
    configured(tmp_path)
    (tmp_path / "migration.sql").write_text("SELECT pg_sleep(100)")
    process = command(tmp_path, "--schema", str(catalog))
    until(lambda: any(b"psql" in _program(pid) for pid in running(tmp_path)), "it runs")
    [folder] = servers(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=60)
    until(lambda: not running(tmp_path) and not folder.exists(), "nothing is left")


def _program(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return b""


def test_without_the_extra_it_says_what_to_install(catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path)
    (tmp_path / "migration.sql").write_text("SELECT 1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = list(check_migration(config, [script(tmp_path / "migration.sql")], schema=catalog))
    assert [each.message for each in found if each.severity == "error"] == [
        "the embedded PostgreSQL is not installed: pip install 'cdc-tracker[demo]'"
    ]


# Where the schema comes from


def test_pg_dumps_file_is_a_schema_with_all_that_a_catalog_leaves_out(pg15: Server, pg18: Server, tmp_path: Path) -> None:
    policy = "CREATE POLICY own ON shop.users USING (id > 0); ALTER TABLE shop.users ENABLE ROW LEVEL SECURITY"
    with fresh_database(pg15) as database:
        database.execute(DATA["schema"])
        database.execute(policy)
        config = configured(tmp_path, url=database.url)
        saved = snapshot.take(config)
        dump = pg15.run("pg_dump", "--schema-only", "-d", database.url)
    (tmp_path / "schema.sql").write_text(dump)
    snapshot.write(saved, tmp_path / "catalog.json")
    (tmp_path / "migration.sql").write_text("DROP POLICY own ON shop.users; ALTER TABLE shop.users RENAME plan TO tier")
    scripts = [script(tmp_path / "migration.sql")]
    [failed] = [
        each for each in check_migration(config, scripts, schema=tmp_path / "catalog.json", url=pg18.url()) if is_error(each)
    ]
    assert 'policy "own" for table "users" does not exist' in failed.message and "pg_dump --schema-only" in failed.hint
    found = list(check_migration(config, scripts, schema=tmp_path / "schema.sql", url=pg18.url()))
    assert events([each for each in found if is_error(each)], "break") == {"Plan Changed"}
    assert [each for each in found if each.where == "schema" and each.severity == "warning"] == []


def is_error(problem: Problem) -> bool:
    return problem.severity == "error"


def test_a_schema_that_cannot_be_made_whole_is_told(pg18: Server, tmp_path: Path) -> None:
    config = configured(tmp_path)
    (tmp_path / "schema.sql").write_text(DATA["schema"] + ";CREATE TABLE shop.places (at geometry);")
    (tmp_path / "migration.sql").write_text("ALTER TABLE shop.users ADD x int")
    found = list(check_migration(config, [script(tmp_path / "migration.sql")], schema=tmp_path / "schema.sql", url=pg18.url()))
    [warning] = [each for each in found if each.severity == "warning"]
    assert "1 statement of it cannot be run" in warning.message and 'type "geometry" does not exist' in warning.message
    (tmp_path / "schema.sql").write_text("CREATE SCHEMA shop")
    found = list(check_migration(config, [script(tmp_path / "migration.sql")], schema=tmp_path / "schema.sql", url=pg18.url()))
    assert 'relation "shop.users" does not exist' in next(each.message for each in found if is_error(each))


def test_files_run_one_after_the_other(catalog: Path, pg18: Server, tmp_path: Path) -> None:
    config = configured(tmp_path)
    (tmp_path / "1.sql").write_text("ALTER TABLE shop.users RENAME plan TO tier; \\ir 3.sql")
    (tmp_path / "2.sql").write_text("ALTER TABLE shop.users RENAME tier TO plan; DROP TABLE between")
    (tmp_path / "3.sql").write_text("CREATE TABLE between (a int);")
    found = list(
        check_migration(config, [script(tmp_path / "1.sql"), script(tmp_path / "2.sql")], schema=catalog, url=pg18.url())
    )
    assert [str(each) for each in found if each.severity != "ok"] == []
    assert "changes no table that is mapped" in [each.message for each in found]


def test_a_migration_can_be_piped(catalog: Path, pg18: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["check", "--schema", str(catalog), "--scratch", pg18.url(), "--json", "--migration", "-"]
    told = CliRunner().invoke(cli, arguments, input="DROP TABLE shop.logs;", prog_name="cdc-tracker")
    assert told.exit_code == 1, told.output
    errors = [each["message"] for each in json.loads(told.stdout)["findings"] if each["severity"] == "error"]
    assert errors == ["Log Written would fall silent: does not exist"]


def test_a_statement_that_takes_for_ever_is_given_up(
    catalog: Path, pg18: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_tracker.operations.scratch.SECONDS", 3.0)
    config = configured(tmp_path)
    for sql, said in (("SELECT pg_sleep(600)", "statement timeout"), ("\\! sleep 600", "has not ended after 3 s")):
        (tmp_path / "1.sql").write_text(sql)
        found = list(check_migration(config, [script(tmp_path / "1.sql")], schema=catalog, url=pg18.url()))
        assert [said in each.message for each in found if is_error(each)] == [True]
    assert pg18.value("SELECT count(*) FROM pg_database WHERE datname LIKE 'cdc_tracker_scratch%'") == 0


def test_the_schema_is_the_sources_own_if_none_is_given(pg15: Server, pg18: Server, tmp_path: Path) -> None:
    with fresh_database(pg15) as database:
        database.execute(DATA["schema"])
        config = configured(tmp_path, url=database.url)
        (tmp_path / "1.sql").write_text("DROP TABLE shop.logs")
        found = list(check_migration(config, [script(tmp_path / "1.sql")], url=pg18.url()))
        assert events([each for each in found if is_error(each)], "fall silent") == {"Log Written"}
        assert database.value("SELECT count(*) FROM shop.logs") == 0
