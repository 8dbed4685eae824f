"""`init` and `check` against real servers, as a person uses them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from cdc_tracker.cli import cli
from cdc_tracker.config import yaml_file
from cdc_tracker.worker.assemble import load_config, load_mappings
from tests.integration.folder import Run
from tests.postgres import Database


@pytest.mark.servers("pg15", "pg18")
def test_what_init_writes_loads_and_passes_check(run: Run, place: Path, database: Database) -> None:
    told = run("init", "--url", database.url)
    assert "cdc-tracker setup" in told.output
    assert sorted(path.name for path in (place / "mappings").iterdir()) == ["orders.yml", "tags.yml", "users.yml"]
    mappings = load_mappings(load_config(place / "cdc-tracker.yml"))
    assert mappings.keys() == ["Order Created", "User Created", "User Plan Changed"]
    assert "Check passed: 0 errors" in run("check").output
    run("setup")
    assert "Check passed: 0 errors" in run("check").output


@pytest.mark.servers("pg18")
def test_init_leaves_personal_columns_and_unlogged_old_values_as_comments(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    users = (place / "mappings" / "users.yml").read_text()
    assert "# email: {value: new.email, type: string}" in users
    assert "when: new.plan != old.plan" in users
    orders = (place / "mappings" / "orders.yml").read_text()
    assert "ALTER TABLE shop.orders REPLICA IDENTITY FULL;" in orders
    assert "events: []" in (place / "mappings" / "tags.yml").read_text()


@pytest.mark.servers("pg18")
def test_what_init_commented_out_holds_once_it_is_taken_in(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    path = place / "mappings" / "orders.yml"
    head, _, commented = path.read_text().partition("  # - name: Order Status Changed\n")
    lines = ["  - name: Order Status Changed", *(f"  {line.removeprefix('  # ')}" for line in commented.splitlines())]
    path.write_text(head + "\n".join(lines) + "\n")
    assert "REPLICA IDENTITY FULL" in run("check", code=1).output
    database.execute("ALTER TABLE shop.orders REPLICA IDENTITY FULL")
    run("check")


@pytest.mark.servers("pg18")
def test_init_maps_odd_names(run: Run, place: Path, database: Database) -> None:
    database.execute(
        'CREATE TABLE shop."Odd Table" ("User Id" int PRIMARY KEY, "class" text, "it\'s ""x"": #1" text, "état" text, '
        "user_id int NOT NULL, doubled int GENERATED ALWAYS AS (user_id * 2) STORED, raw bytea, body jsonb, list int[]);"
        'CREATE SCHEMA crm; CREATE TABLE crm.orders (id int PRIMARY KEY, customer_id uuid, "ORDER" text);'
    )
    run("init", "--url", database.url)
    mappings = load_mappings(load_config(place / "cdc-tracker.yml"))
    assert {"Odd Table Created", "Crm Order Created", "Shop Order Created"} <= set(mappings.keys())
    [odd] = mappings.for_table("shop.Odd Table")
    assert {"User Id", "class", 'it\'s "x": #1', "état", "body", "list"} <= set(odd.new_columns)
    assert not {"doubled", "raw"} & set(odd.new_columns)
    run("check")


@pytest.mark.servers("pg18")
def test_names_with_line_breaks_stay_within_comments_and_quotes(run: Run, place: Path, database: Database) -> None:
    injected = "x\n  - {name: Injected, table: shop.users, user_id: new.id} #"
    database.execute(
        f'CREATE TABLE shop."{injected}" ("id\n" int PRIMARY KEY, "user_id" int, "a\nstatus" text, "b\u2028\\status" text);'
        'CREATE TABLE shop."users\n- x" ("customer\x07id" int)'
    )
    run("init", "--url", database.url)
    mappings = load_mappings(load_config(place / "cdc-tracker.yml"))
    assert "Injected" not in mappings.keys()  # noqa: SIM118  keys of mappings, not of a dict
    [created] = mappings.for_table(f"shop.{injected}")
    assert set(created.new_columns) >= {"id\n", "user_id"}
    [text] = [path.read_text() for path in (place / "mappings").iterdir() if "Injected" in path.read_text()]
    [statement] = [line.partition("ALTER")[2] for line in text.splitlines() if "ALTER" in line]
    database.execute(f"ALTER{statement}")
    assert database.value("SELECT relreplident = 'f' FROM pg_class WHERE relname LIKE '%Injected%' AND relkind = 'r'") is True


PEOPLE = """
CREATE TABLE shop.accounts (id int PRIMARY KEY, holder int REFERENCES shop.users, user_id int);
CREATE TABLE shop.tasks (id uuid PRIMARY KEY, assignee_id text, created_by text NOT NULL, state shop.plan);
CREATE TABLE shop.visits (at timestamptz PRIMARY KEY, user_id int, anonymous_id text, note text);
CREATE TABLE shop.invitations (id int PRIMARY KEY, member int NOT NULL REFERENCES shop.users, inviter int REFERENCES shop.users);
CREATE TABLE shop.contacts (email text PRIMARY KEY, person_id int);
CREATE TABLE shop.members (email text PRIMARY KEY);
"""


@pytest.mark.servers("pg18")
def test_init_names_the_person_and_marks_what_it_guesses(run: Run, place: Path, database: Database) -> None:
    database.execute(PEOPLE)
    run("init", "--url", database.url)
    text = {path.stem: path.read_text() for path in (place / "mappings").iterdir()}
    assert "    user_id: new.holder  # references shop.users\n" in text["accounts"]  # before its own id, and before a name
    assert "    when: new.holder is not None\n" in text["accounts"]
    assert "    user_id: new.member  # references shop.users\n" in text["invitations"]
    assert "    user_id: new.created_by  # guess: by its name\n" in text["tasks"]  # as it is never NULL
    assert "state: {value: new.state, type: string}  # basic, pro\n" in text["tasks"]
    assert "    when: new.user_id is not None or new.anonymous_id is not None\n" in text["visits"]
    assert "    user_id: new.person_id  # guess: by its name\n" in text["contacts"]
    assert "    user_id: 'sha256(new.email)'  # guess: rows are people, by the table's name\n" in text["members"]
    assert "    user_id: new.id  # guess: rows are people, by the table's name\n" in text["users"]
    assert "when: new.plan != old.plan  # guess: plan holds a state, by its name\n" in text["users"]
    found = json.loads(run("check", "--json").output)["findings"]
    assert [each for each in found if each["severity"] != "ok" and "mappings" in each["where"]] == []


ROWS = """
INSERT INTO shop.users (email, plan) VALUES ('ann@example.com', 'pro');
INSERT INTO shop.orders (user_id, status, total, placed)
VALUES (1, E'sent "off"\\n: #1 \u2028\u00e9', 1e3 + 0.10, '2026-03-01 10:00+00');
CREATE DOMAIN shop.cents AS bigint;
CREATE TABLE shop.visits (id uuid PRIMARY KEY, user_id bigint, spent shop.cents, ratio float8, ok boolean, tags text[], ip inet,
                          metadata jsonb, day date, length interval, price numeric, huge bigint);
INSERT INTO shop.visits (id, user_id, price) VALUES (gen_random_uuid(), NULL, 1), (gen_random_uuid(), 1, 'NaN');
INSERT INTO shop.visits VALUES ('6f9619ff-8b86-d011-b42d-00cf4fc964ff', 1, 100, 0.1, true, '{a,NULL,"b c"}', '10.1.2.3',
                                '{"email": "bob@example.com"}', '2026-03-01', '1 day', 1.50, 9007199254740993);
CREATE TABLE shop.empty (id int PRIMARY KEY, user_id int NOT NULL);
CREATE TABLE shop.secret (id int PRIMARY KEY, user_id int NOT NULL);
INSERT INTO shop.secret VALUES (1, 4711);
"""


@pytest.mark.servers("pg15", "pg18")
def test_init_writes_examples_from_rows_only_when_told_to(run: Run, place: Path, database: Database) -> None:
    database.execute(ROWS)
    run("init", "--url", database.url)
    assert not any("examples" in path.read_text() for path in (place / "mappings").iterdir())
    run("init", "--url", database.url, "--force", "--with-examples")
    text = {path.stem: path.read_text() for path in (place / "mappings").iterdir()}
    assert [name for name in sorted(text) if "examples:" in text[name]] == ["orders", "secret", "users", "visits"]
    assert "4711" in text["secret"]
    assert not any(personal in "".join(text.values()) for personal in ("ann@", "bob@", "10.1.2.3"))
    assert "9007199254740993" in text["visits"]
    told = run("test-mappings").output
    assert "4 examples passed" in told
    assert "failed" not in told


@pytest.mark.servers("pg18")
def test_init_reads_no_rows_that_the_role_may_not_read(run: Run, place: Path, database: Database) -> None:
    database.execute(ROWS)
    database.execute("DO $$ BEGIN CREATE ROLE looker LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    database.execute("GRANT USAGE ON SCHEMA shop TO looker; GRANT SELECT ON shop.orders TO looker")
    run("init", "--url", database.url_as("looker"), "--with-examples")
    text = {path.stem: path.read_text() for path in (place / "mappings").iterdir()}
    assert [name for name in sorted(text) if "examples:" in text[name]] == ["orders"]


@pytest.mark.servers("pg18")
def test_init_overwrites_only_when_told_to(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url, "--schema", "shop")
    config = place / "cdc-tracker.yml"
    config.write_text("mine")
    told = run("init", "--url", database.url, code=2)
    assert "exist already, and nothing was written" in told.output
    assert config.read_text() == "mine"
    run("init", "--url", database.url, "--force")
    assert config.read_text() != "mine"
    assert "There are: shop" in run("init", "--url", database.url, "--schema", "sales", "--force", code=3).output


@pytest.mark.servers("pg18")
def test_what_init_writes_is_valid_by_the_schema_that_it_writes(run: Run, place: Path, database: Database) -> None:
    database.execute(
        'CREATE TABLE shop."Odd ""Table" ("User Id" int PRIMARY KEY, state text); CREATE TABLE shop."my.t" (user_id int)'
    )
    run("init", "--url", database.url)
    validator = jsonschema.Draft7Validator(json.loads((place / "cdc-tracker.schema.json").read_text()))
    files = [place / "cdc-tracker.yml", *sorted((place / "mappings").iterdir())]
    assert len(files) == 6
    for path in files:
        first, _, _ = path.read_text().partition("\n")
        schema = first.removeprefix("# yaml-language-server: $schema=")
        assert (path.parent / schema).resolve() == place / "cdc-tracker.schema.json"
        assert [error.message for error in validator.iter_errors(yaml_file.load(path).value)] == [], path


@pytest.mark.servers("pg18")
def test_schema_names_the_tables_of_a_saved_catalog_or_of_the_database(run: Run, place: Path, database: Database) -> None:
    assert "Without tables" in run("schema").stderr
    run("init", "--url", database.url)

    def tables(*arguments: str) -> tuple[list[str], str]:
        told = run("schema", *arguments)
        return json.loads(told.stdout)["definitions"]["EventShape"]["properties"]["table"]["anyOf"][0]["enum"], told.stderr

    assert tables() == (["shop.orders", "shop.tags", "shop.users"], f"With 3 tables of the database {database.name}.\n")
    run("check", "--save-schema", "cdc-tracker.catalog.json")
    database.execute("DROP TABLE shop.tags")
    assert tables()[0] == ["shop.orders", "shop.tags", "shop.users"]
    run("check", "--save-schema", "other.json")
    assert tables("--schema", "other.json")[0] == ["shop.orders", "shop.users"]
    assert "cannot be read" in run("schema", "--schema", "none.json", code=3).output


# check


@pytest.mark.servers("pg18")
def test_check_finds_what_would_stop_a_run(run: Run, place: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", "--url", database.url)
    path = place / "mappings" / "orders.yml"
    path.write_text(path.read_text().replace("new.total", "new.totall"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("CDC_TRACKER_HTTP__PORT", str(taken.getsockname()[1]))
        config = place / "cdc-tracker.yml"
        hook = "  hook: {type: webhook, url: 'http://127.0.0.1:1/', secret: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']}\n"
        config.write_text(config.read_text().replace("destinations:\n", "destinations:\n" + hook))
        found = json.loads(run("check", "--json", code=1).output)
    errors = [f"{each['where']} {each['key']} {each['message']}" for each in found["findings"] if each["severity"] == "error"]
    assert not found["ok"]
    assert len(errors) == 3
    assert any("has no column 'totall'; did you mean 'total'" in error for error in errors)
    assert any("destinations.hook" in error for error in errors)
    assert any("http port" in error for error in errors)
    assert "whsec_" not in json.dumps(found)


@pytest.mark.servers("pg18")
def test_check_tells_every_mistake_in_the_configuration(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    config = place / "cdc-tracker.yml"
    config.write_text(config.read_text().replace("data_dir:", "datadir:"))
    told = run("check", code=1)
    assert "datadir: is not a known key; did you mean 'data_dir'?" in " ".join(told.output.split())


@pytest.mark.servers("pg18")
def test_check_says_that_the_server_is_away(run: Run, place: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", "--url", database.url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:open-sesame@127.0.0.1:1/shop")
    for command in ("check", "setup", "status", "teardown"):
        told = CliRunner().invoke(cli, [command, *(["--yes"] if command == "teardown" else [])])
        assert told.exit_code in {1, 3}
        assert "sesame" not in told.output
        assert "Traceback" not in told.output
