"""What is wrong in mapping files is found before they run, and what is right is not complained about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from cdc_tracker.cli import cli
from cdc_tracker.errors import MappingError, Problem
from cdc_tracker.mapping import findings, load, load_texts
from cdc_tracker.monitoring.fit import misfits
from cdc_tracker.sources.postgres.connection import Connection, connect
from cdc_tracker.sources.postgres.values import codec
from tests.integration.mistakes import FILES, NO_MISTAKE, Mistake
from tests.postgres import Database, Servers, fresh_database

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("product.sql").read_text()
CONFIG = """version: 1
source: {{url: '{url}'}}
mappings: [mappings/]
destinations: {{hook: {{type: memory}}}}
http: {{port: null}}
"""
OF_THE_SERVER = ("there is no slot", "keeps WAL for a slot without limit", "wal2json writes NaN")
"""Words of findings that have to do with the server, not with the mappings."""


@pytest.fixture(scope="module")
def product(servers: Servers) -> Iterator[Database]:
    """The product's database, which no test changes."""
    with fresh_database(servers.get("pg15")) as made:
        made.execute(SCHEMA)
        yield made


@pytest.fixture(scope="module")
def connection(product: Database) -> Iterator[Connection]:
    with closing(connect(product.url)) as opened:
        yield opened


@pytest.fixture
def place(product: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mappings").mkdir()
    (tmp_path / "cdc-tracker.yml").write_text(CONFIG.format(url=product.url))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commanded(place: Path, text: str, command: str) -> tuple[int, list[Problem]]:
    """The command's exit code, and its findings but for those about the server."""
    (place / "mappings" / "a.yml").write_text(text)
    done = CliRunner().invoke(cli, [command, "--json"])
    output = json.loads(done.output)
    found = [Problem(**each) for each in output.get("findings", output.get("problems")) if each["severity"] != "ok"]
    return done.exit_code, [each for each in found if not any(words in each.message for words in OF_THE_SERVER)]


def looked_at(text: str, connection: Connection | None) -> list[Problem]:
    """What is found of a file's text; without a connection, what needs no database."""
    try:
        mappings = load_texts({"a.yml": text})
    except MappingError as error:
        return error.problems
    return [*mappings.warnings, *(misfits(connection, mappings) if connection else findings(mappings, None, codec))]


def said(found: list[Problem], mistake: Mistake) -> list[Problem]:
    right = [each for each in found if each.severity == mistake.severity]
    return [each for each in right if all(words in f"{each.key}: {each.message} {each.hint}" for words in mistake.says)]


FIRST = [pytest.param(each, id=each.name) for each in FILES]
ALL = [pytest.param(each, text, id=f"{each.name} {n}") for each in FILES for n, text in enumerate(each.texts, 1)]
FINE = [pytest.param(text, id=f"{each.name} {n}") for each in FILES for n, text in enumerate(each.fine, 1)]
FINE += [pytest.param(text, id=name) for name, text in NO_MISTAKE.items()]


@pytest.mark.parametrize("mistake", FIRST)
def test_the_commands_say_it_once_and_what_it_is_decides_their_exit_code(place: Path, mistake: Mistake) -> None:
    code, found = commanded(place, mistake.texts[0], "check")
    [problem] = said(found, mistake)
    assert f"{place}/mappings/a.yml:" in problem.where
    assert code == int(mistake.severity == "error"), found
    code, found = commanded(place, mistake.texts[0], "test-mappings")
    assert len(said(found, mistake)) == int(mistake.offline), found
    assert code == int(mistake.severity == "error" and mistake.offline), found


@pytest.mark.parametrize(("mistake", "text"), ALL)
def test_every_spelling_of_a_mistake_is_found_once(connection: Connection, place: Path, mistake: Mistake, text: str) -> None:
    found = commanded(place, text, "check")[1] if mistake.server else looked_at(text, connection)
    assert len(said(found, mistake)) == 1, found
    if mistake.offline:
        assert len(said(looked_at(text, None), mistake)) == 1


@pytest.mark.parametrize("text", FINE)
def test_what_is_right_is_not_complained_about(connection: Connection, text: str) -> None:
    assert looked_at(text, connection) == []
    assert looked_at(text, None) == []


def test_the_tables_of_what_is_right_can_be_captured(place: Path) -> None:
    mistakes = [each for each in FILES if each.server]
    assert len(mistakes) == 2
    for mistake in mistakes:
        assert commanded(place, mistake.fine[0], "check") == (0, [])


def test_a_whole_file_that_is_right_is_not_complained_about(connection: Connection) -> None:
    text = Path(__file__).with_name("product.yml").read_text()
    assert looked_at(text, connection) == []
    assert looked_at(text, None) == []


@pytest.mark.servers("pg15", "pg18")
def test_the_mappings_of_the_demo_are_not_complained_about(database: Database) -> None:
    database.execute((ROOT / "cdc_tracker" / "demo" / "schema.sql").read_text())
    with closing(connect(database.url)) as opened:
        assert misfits(opened, load([ROOT / "mappings"])) == []
