from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdc_tracker import __version__, cli
from cdc_tracker.cli.sql import SCRIPTS
from tests.unit.cli.conftest import Run


def test_help_names_every_command(run: Run) -> None:
    told = run("--help")
    assert told.exit_code == 0
    for command in ("init", "check", "setup", "run", "status", "preview", "rewind", "dead-letters", "ledger", "test-mappings"):
        assert f"  {command} " in told.output


@pytest.mark.parametrize("command", sorted(cli._COMMANDS))
def test_every_command_has_a_help_of_its_own(run: Run, command: str) -> None:
    told = run(command, "--help")
    assert told.exit_code == 0
    assert "Usage:" in told.output


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from cdc_tracker.cli import cli; "
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0; "
        "print([name for name in ('sqlalchemy', 'psycopg', 'pydantic', 'rich', 'httpx', 'structlog') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_no_command_imports_anything_heavy_for_its_help() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from cdc_tracker import cli; run = CliRunner().invoke\n"
        "for name in cli._COMMANDS:\n"
        "    before = set(sys.modules); assert run(cli.cli, [name, '--help']).exit_code == 0\n"
        "    heavy = ('sqlalchemy', 'psycopg', 'pydantic', 'rich', 'httpx', 'structlog', 'yaml', 'cdc_tracker.worker.assemble')\n"
        "    print(*(f'{name}: {each}' for each in heavy if each in sys.modules and each not in before), sep='\\n', end='')"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == ""


def test_the_version_is_told(run: Run) -> None:
    assert __version__ in run("--version").output


def test_a_mistyped_command_is_answered_with_the_nearest_one(run: Run) -> None:
    told = run("statsu")
    assert told.exit_code == 2
    assert "did you mean 'status'?" in told.output


def test_an_error_is_one_paragraph_without_a_traceback(run: Run, place: Path) -> None:
    (place / "cdc-tracker.yml").write_text("version: 1\nsorce: {}\n")
    told = run("status")
    assert told.exit_code == 3
    assert "cdc-tracker.yml:2: sorce: is not a known key; did you mean 'source'?" in told.output
    assert "Traceback" not in told.output


def test_debug_lets_the_traceback_through(run: Run, place: Path) -> None:
    (place / "cdc-tracker.yml").unlink()
    assert "there is no configuration file" in run("status").output
    told = run("--debug", "status")
    assert "there is no configuration file" in str(told.exception)


def test_a_fault_of_ours_is_told_as_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("cdc_tracker.worker.assemble.load_config", broken)
    told = run("status")
    assert told.exit_code == 3
    assert "ZeroDivisionError: by nought" in told.output
    assert "fault in cdc-tracker" in told.output


def test_sql_prints_each_script_as_it_is(run: Run) -> None:
    folder = Path(__file__).parents[3] / "sql"
    assert sorted(SCRIPTS) == sorted(path.stem for path in folder.iterdir())
    for name, about in SCRIPTS.items():
        told = run("sql", name)
        assert (told.exit_code, told.output) == (0, (folder / f"{name}.sql").read_text())
        assert about in run("sql", "--help").output
    assert run("sql", "rolle").exit_code == 2


def test_config_may_be_given_by_option(run: Run, place: Path) -> None:
    (place / "cdc-tracker.yml").rename(place / "other.yml")
    assert run("test-mappings").exit_code == 1
    assert run("--config", "other.yml", "test-mappings").exit_code == 0


def test_commands_that_need_a_set_up_source_say_so(run: Run) -> None:
    for arguments in (["status"], ["rewind", "events", "--to", "earliest"]):
        told = run(*arguments)
        assert told.exit_code == 3
        assert "cdc-tracker setup" in told.output


def test_a_role_to_run_is_checked_before_anything_starts(run: Run) -> None:
    assert run("run", "--only", "delivery").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--schema", "c.json"], "--schema is for --offline and --migration"),
        (["--offline", "--save-schema", "c.json"], "--save-schema is for a check of the database"),
        (["cdc-tracker.yml"], "--scratch and FILES are for --migration"),
        (["--scratch", "postgresql://x"], "--scratch and FILES are for --migration"),
        (["--migration", "none.sql"], "'none.sql' does not exist"),
    ],
)
def test_options_of_check_that_do_not_go_together_are_told(run: Run, arguments: list[str], said: str) -> None:
    told = run("check", *arguments)
    assert told.exit_code == 2
    assert said in " ".join(told.output.split())


def test_offline_without_a_catalog_says_how_to_save_one(run: Run, place: Path) -> None:
    told = run("check", "--offline")
    assert told.exit_code == 1
    text = "".join(told.output.split())
    assert "cdc-tracker.catalog.jsoncannotberead:Nosuchfileordirectory" in text
    assert "cdc-trackercheck--save-schema" in text
    (place / "m.sql").write_text("SELECT 1")
    told = run("check", "--offline", "--migration", "m.sql", "--json")
    assert told.exit_code == 1
    assert [each["where"] for each in json.loads(told.output)["findings"] if each["severity"] == "error"] == ["migration"]
