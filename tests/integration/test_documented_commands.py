"""Commands of README and of the analyst's pages, run as they are written: they print what the pages show."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.missing import leave_out
from tests.ports import free_ports
from tests.postgres import Server, ServerUnavailable, launch
from tests.worker import until

ROOT = Path(__file__).resolve().parents[2]
TABLES = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.users (id bigint PRIMARY KEY, email text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE shop.orders (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES shop.users, status text NOT NULL,
        amount numeric(12, 2) NOT NULL, email text, paid_at timestamptz, currency text NOT NULL DEFAULT 'EUR');
    ALTER TABLE shop.orders REPLICA IDENTITY FULL;
    INSERT INTO shop.users VALUES (3, 'ada@example.com');
    INSERT INTO shop.orders SELECT n, 3, 'pending', 29.70, ' Ada@Example.com' FROM generate_series(1, 7) n;
"""
OLD_ORDERS = """
    INSERT INTO shop.orders SELECT 100 + n, 3, 'paid', 20 + n % 50, NULL, timestamptz '2024-01-01' + n * interval '2 hours'
        FROM generate_series(1, 9000) n;
    ANALYZE;
    GRANT CREATE ON DATABASE shop TO cdc_tracker;
    GRANT USAGE ON SCHEMA shop TO cdc_tracker;
    GRANT SELECT ON ALL TABLES IN SCHEMA shop TO cdc_tracker
"""
EXAMPLE = """
    examples:
      - old: {id: 7, status: pending}
        new: {id: 7, user_id: 3, status: paid, amount: "29.70", email: null, paid_at: null, currency: EUR}
        event: {userId: "3"}
"""
WAREHOUSE = 'destinations:\n  warehouse: {type: sql, url: "sqlite:///warehouse.db"}\n'
DIFFERS = (  # from run to run
    (r"\b[0-9A-F]+/[0-9A-F]+\b", "LSN"),
    (r"\d{4}-\d\d-\d\d[ T][\d:.]+Z", "TIME"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
    (r"\bpid \d+", "pid N"),
    (r"\b[\d.]+ (B|KB|ms|s)\b", "SIZE"),
    (r"PostgreSQL 15\.\d+ \(.*?\)", "PostgreSQL 15"),
    (r"/\S*/cdc-tracker\.yml", "FILE"),
    (r"\d+ segments?", "N segments"),
    (r"about [\d,]+ rows", "about N rows"),
    (r"^ *\d+ +(events|warehouse) ", r"N \1 "),  # which of the two parks first
    (r"─+", "─"),
    (r"\s+", " "),
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[tuple[str, list[str]]]:
    """The page's commands, without comments, and the plain lines that each prints, but for questions: they need a terminal."""
    texts = [re.sub(r"^.*\[y/N\].*\n", "", block, flags=re.MULTILINE) for block in blocks(page, "console")]
    found = [pair for text in texts for pair in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]
    return [(command.partition("  #")[0].strip(), plain(output)) for command, output in found if command[0] != "#"]


def plain(text: str) -> list[str]:
    """The lines without what differs from run to run; empty lines are left out."""
    lines = []
    for line in text.splitlines():
        for pattern, instead in DIFFERS:
            line = re.sub(pattern, instead, line)  # noqa: PLW2901
        lines.append(line.strip())
    return [line for line in lines if line]


def missing(documented: list[str], printed: list[str]) -> list[str]:
    """The documented lines that were not printed. `…` at the end of a line: it goes on; alone: lines are left out."""
    return [
        want
        for want in documented
        if want != "…" and not any(line.startswith(want[:-1]) if want[-1] == "…" else line == want for line in printed)
    ]


class Terminal:
    def __init__(self, folder: Path, server: Server) -> None:
        self._folder = folder
        paths = [str(Path(sys.executable).parent), str(server.bindir), os.environ["PATH"]]
        self._environment = os.environ | {
            "PATH": os.pathsep.join(paths),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": "postgres",
            "DATABASE_URL": f"postgresql://cdc_tracker@127.0.0.1:{server.port}/shop",
            "CDC_TRACKER_HTTP__PORT": str(free_ports(1)[0]),
            "COLUMNS": "200",
        }

    def run(self, command: str) -> str:
        process = self._start(f"set -o pipefail; {command}")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, f"{command}\n{output}"
        return output

    @contextmanager
    def beside(self, command: str) -> Iterator[subprocess.Popen[str]]:
        process = self._start(f"exec {command.removesuffix('&')}")
        try:
            yield process
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output

    def _start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def own() -> Iterator[Server]:
    try:
        with launch("pg15") as server:
            if not server.has_wal2json:
                leave_out("pg15 has no wal2json: apt-get install postgresql-15-wal2json")
            yield server
    except ServerUnavailable as error:
        leave_out(str(error))


@pytest.fixture
def shop(own: Server, tmp_path: Path) -> Terminal:
    own.execute("CREATE DATABASE shop")
    own.execute(TABLES, "shop")
    terminal = Terminal(tmp_path, own)
    terminal.run("cdc-tracker sql role | psql -d shop")
    return terminal


def declare(folder: Path) -> None:
    """What README has its readers edit after `init`."""
    (folder / "mappings/orders.yml").write_text(blocks("README.md", "yaml")[0] + EXAMPLE)
    config = folder / "cdc-tracker.yml"
    config.write_text(config.read_text().replace("destinations:\n", WAREHOUSE, 1))


def lines(folder: Path) -> list[str]:
    path = folder / "events-000001.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_the_five_steps_print_what_the_readme_shows(shop: Terminal, own: Server, tmp_path: Path) -> None:
    *steps, (run, _), (status, healthy) = commands("README.md")
    assert [command.split()[1] for command, _ in steps] == ["init", "test-mappings", "check", "setup", "-v", "setup", "preview"]
    for command, documented in steps:
        if "preview" in command:
            threading.Thread(target=pay, args=(own,)).start()
        printed = plain(shop.run(command))
        assert missing(documented, printed) == [], "\n".join([command, *printed])
        if "init" in command:
            declare(tmp_path)
    with shop.beside(run):
        until(lambda: bool(lines(tmp_path)), "the event is there")
        until(lambda: not missing(healthy, plain(shop.run(f"{status} || true"))), "all is well")
    [line] = lines(tmp_path)
    assert without_place(line) == without_place(blocks("README.md", "json")[0])


def test_history_and_dead_letters_print_what_the_analysts_pages_show(shop: Terminal, own: Server, tmp_path: Path) -> None:
    (letters, listed), (retry, queued) = commands("docs/analyst/rejections.md")
    (explain, explained), (events, shown) = commands("docs/analyst/explain.md")
    (diff, compared), (replay, replayed), (backfill, read) = commands("docs/analyst/history.md")
    own.execute(OLD_ORDERS, "shop")
    shop.run('cdc-tracker init --url "$DATABASE_URL"')
    declare(tmp_path)
    shop.run("cdc-tracker setup --yes")
    with shop.beside("cdc-tracker run &") as worker:
        own.execute("UPDATE shop.orders SET status = 'paid', paid_at = now() WHERE id < 7", "shop")
        own.execute("UPDATE shop.orders SET status = 'paid', paid_at = now(), amount = -1 WHERE id = 7", "shop")
        until(lambda: not missing(listed, plain(shop.run(letters))), "both letters are listed")
        (tmp_path / "fixed").mkdir()
        mapping = tmp_path / "mappings/orders.yml"
        fixed = mapping.read_text().replace(", minimum: 0}", "}\n      currency: new.currency")
        (tmp_path / "fixed/orders.yml").write_text(fixed)
        assert missing(compared, plain(shop.run(diff))) == []
        mapping.write_text(fixed + blocks("docs/analyst/history.md", "yaml")[0].splitlines()[-1] + "\n")
        worker.send_signal(signal.SIGHUP)
        assert missing(queued, plain(shop.run(retry))) == []
        assert missing(replayed, plain(shop.run(f"{replay} --yes"))) == []
        assert missing(read, plain(shop.run(f"{backfill} --yes"))) == []
        own.execute("UPDATE shop.orders SET status = 'refunded' WHERE id = 1", "shop")
        until(lambda: not missing(explained, plain(shop.run(explain))), "both changes are explained")
        assert missing(shown, plain(shop.run(events))) == []


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: longer ones break the lines of a table."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        yield Path(folder)


def test_checks_of_a_build_print_what_the_page_shows(shop: Terminal, own: Server, short: Path) -> None:
    save, offline, migration = commands("docs/developer/ci.md")
    terminal = Terminal(short, own)
    terminal.run('cdc-tracker init --url "$DATABASE_URL"')
    declare(short)
    (short / "0042_orders.sql").write_text(blocks("docs/developer/ci.md", "sql")[0])
    for command, documented in (save, offline, migration):
        output = terminal.run(f"{command} || test $? = 1" if command == migration[0] else command)
        printed = plain(re.sub(r"PostgreSQL 15\.\d+", "PostgreSQL 15.18", output.replace(str(short), "/srv/shop")))
        assert missing(documented, printed) == [], "\n".join(printed)
        own.execute("DROP SCHEMA IF EXISTS shop CASCADE", "shop")  # from the second on the database is not needed


def pay(server: Server) -> None:
    """Once `preview` reads: it does not show what committed before."""
    slots = "pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid"
    streaming = f"SELECT count(*) FROM {slots} WHERE s.temporary AND r.state = 'streaming'"
    until(lambda: bool(server.value(streaming)), "preview reads")
    server.execute(blocks("README.md", "sql")[0], "shop")


def without_place(text: str) -> dict[str, object]:
    """An event without its id and its place in the WAL, which are the server's."""
    event: dict[str, object] = json.loads(text, parse_float=str)
    assert re.fullmatch(r"[0-9a-f-]{36}", str(event.pop("messageId")))
    source = event["context"]["source"]  # type: ignore[index]
    return event | {"context": sorted(source), "keys": list(event)}
