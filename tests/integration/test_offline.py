"""`check --save-schema` and `check --offline`: mappings checked by a file, as on a build server."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from cdc_tracker.errors import ConfigError
from cdc_tracker.operations import snapshot
from cdc_tracker.sources.postgres import catalog, definitions
from cdc_tracker.sources.postgres.connection import connect
from cdc_tracker.tables import stable
from tests.integration.folder import Run
from tests.postgres import Database, Server, fresh_database

FILE = "cdc-tracker.catalog.json"
EVERYTHING = """
CREATE SCHEMA "od.d"; CREATE SCHEMA shop;
CREATE TYPE shop.status AS ENUM ('pending', 'in progress', 'it''s "paid"');
CREATE TYPE shop.size AS (width int, unit text);
CREATE DOMAIN shop.cents AS bigint DEFAULT 0 CONSTRAINT positive CHECK (VALUE >= 0);
CREATE DOMAIN shop.state AS shop.status NOT NULL;
CREATE TABLE shop.users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE, name varchar(40));
CREATE TABLE shop.orders (id serial PRIMARY KEY, user_id bigint NOT NULL REFERENCES shop.users ON DELETE CASCADE,
    status shop.status DEFAULT 'pending', states shop.state[], total shop.cents, size shop.size,
    twice bigint GENERATED ALWAYS AS (total * 2) STORED,
    currency char(3) CHECK (currency IN ('EUR', 'USD')), UNIQUE (user_id, id));
CREATE UNIQUE INDEX orders_by_user ON shop.orders (user_id, status) WHERE status <> 'pending';
CREATE TABLE shop.logs (id bigint NOT NULL, at date NOT NULL, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE shop.logs_1 PARTITION OF shop.logs FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE shop.logs_2 PARTITION OF shop.logs FOR VALUES FROM ('2026-07-01') TO ('2027-01-01') PARTITION BY HASH (id);
CREATE TABLE shop.logs_2_0 PARTITION OF shop.logs_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE INDEX ON shop.logs (note);
ALTER TABLE shop.logs_1 REPLICA IDENTITY FULL; ALTER TABLE shop.users REPLICA IDENTITY NOTHING;
CREATE TABLE shop."Ähm ""x"" y" (a int NOT NULL, b int) ;
CREATE UNIQUE INDEX "the key" ON shop."Ähm ""x"" y" (a); ALTER TABLE shop."Ähm ""x"" y" REPLICA IDENTITY USING INDEX "the key";
CREATE TABLE "od.d".parent (id int PRIMARY KEY); CREATE TABLE "od.d".child (more text) INHERITS ("od.d".parent);
CREATE FUNCTION shop.title(o shop.orders) RETURNS text LANGUAGE sql AS $$SELECT o.status::text || '''$1'''$$;
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touching BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE VIEW shop.z AS SELECT shop.title(o) AS title, o.id FROM shop.orders o; CREATE VIEW shop.a AS SELECT title FROM shop.z;
CREATE MATERIALIZED VIEW shop.m AS SELECT count(*) AS n FROM shop.a
"""


def test_the_statements_of_a_snapshot_make_the_same_schema_again(server: Server) -> None:
    with fresh_database(server) as one, fresh_database(server) as other:
        one.execute(EVERYTHING)
        with closing(connect(one.url)) as original, closing(connect(other.url)) as copy:
            given = definitions.statements(original)
            assert definitions.rebuild(copy, given) == []
            assert definitions.statements(copy) == given
            tables = stable(catalog.user_tables(original))
            assert len(tables) == 6
            assert stable(catalog.user_tables(copy)) == tables


@pytest.mark.servers("pg18")
def test_statements_that_fail_are_reported_and_the_others_run(database: Database) -> None:
    given = ["CREATE VIEW v AS SELECT * FROM public.t", "CREATE TABLE public.t (a postgis)", "CREATE TABLE public.u (a int)"]
    with closing(connect(database.url)) as connection:
        why = definitions.rebuild(connection, given)
    assert [each.partition(":")[0] for each in why] == ['relation "public.t" does not exist', 'type "postgis" does not exist']
    assert database.value("SELECT count(*) FROM u") == 0


@pytest.mark.servers("pg15", "pg18")
def test_a_saved_catalog_is_the_same_from_another_database_of_the_schema(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    told = run("check", "--save-schema", FILE)
    assert f"wrote {FILE}: database {database.name}, PostgreSQL {database.server.major}." in told.output
    first = (place / FILE).read_text()
    database.execute(
        "INSERT INTO shop.users (email) SELECT 'x' FROM generate_series(1, 99); ANALYZE; CREATE TYPE o AS ENUM ('a')"
    )
    database.execute("ALTER TABLE shop.users DROP COLUMN plan; DROP TYPE shop.plan")
    database.execute("CREATE TYPE shop.plan AS ENUM ('basic', 'pro'); DROP TYPE o")
    database.execute("ALTER TABLE shop.users ADD plan shop.plan NOT NULL DEFAULT 'basic'")
    run("check", "--save-schema", FILE)
    assert (place / FILE).read_text() == first
    assert list(place.glob(".cdc-tracker.catalog*")) == []
    lines = [line for line in first.splitlines() if '"status"' in line and "type_name" in line]
    assert len(lines) == 1  # a column is a line


@pytest.mark.servers("pg18")
def test_mappings_are_checked_offline_as_with_the_database(run: Run, place: Path, database: Database) -> None:
    run("init", "--url", database.url)
    database.execute("CREATE VIEW shop.open_orders AS SELECT * FROM shop.orders")
    (place / "mappings" / "more.yml").write_text("""\
version: 1
events:
  - {name: Order Paid, table: shop.orders, on: update, when: new.statsu == 'paid', user_id: new.user_id}
  - {name: Order Changed, table: shop.orders, on: update, when: new.status != old.status, user_id: new.user_id}
  - {name: Order Opened, table: shop.open_orders, user_id: new.user_id}
  - {name: Cart Filled, table: shop.order, user_id: new.user_id}
""")
    run("check", "--save-schema", FILE, code=1)
    live = errors(run("check", "--json", code=1).output)
    assert len(live) == 4
    database.execute("DROP SCHEMA shop CASCADE")
    assert errors(run("check", "--offline", "--json", code=1).output) == live


def errors(output: str) -> list[dict[str, str]]:
    found = [each for each in json.loads(output)["findings"] if each["severity"] == "error"]
    return sorted(found, key=lambda each: (each["where"], each["key"], each["message"]))


@pytest.mark.servers("pg18")
def test_offline_needs_no_secret_and_opens_nothing(
    run: Run, place: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init", "--url", database.url)
    run("check", "--save-schema", FILE)
    config = place / "cdc-tracker.yml"
    text = config.read_text().replace(f"${{DATABASE_URL:-{database.url}}}", "${DATABASE_URL}")
    text = text.replace("data_dir: ./data", "data_dir: ./elsewhere")
    config.write_text(text.replace("destinations:\n", "destinations:\n  hub: {type: segment, write_key: '${file:key}'}\n", 1))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert "DATABASE_URL is not set" in run("check", code=1).output
    told = run("check", "--offline")
    assert "fit the tables as they were saved" in told.output
    assert "database" in told.output and database.name in told.output
    assert not (place / "elsewhere").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no catalog that `check --save-schema` wrote"),
        ('{"$schema": "http://json-schema.org/draft-07/schema#"}', "is no catalog that `check --save-schema` wrote"),
        ("\xff\xfe", "is no catalog that `check --save-schema` wrote"),
        ('{"version": 0, "tables": []}', "was written by an earlier cdc-tracker: version 0, not 1"),
        ('{"version": 2, "tables": []}', "was written by a later cdc-tracker: version 2, not 1"),
        ('{"version": 1, "tables": [{"schema": "shop"}], "server_version": 1, "database": "x", "plugin": ""}', "is damaged: "),
    ],
)
def test_a_file_that_is_none_is_told_with_what_to_do(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=said.partition("`")[0]) as caught:
        snapshot.read(path)
    assert said in str(caught.value)
    assert f"cdc-tracker check --save-schema {path}" in caught.value.hint
