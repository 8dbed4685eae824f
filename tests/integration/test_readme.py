"""README's five steps, run as they are written, on a server of their own: their outputs are those that README shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.missing import leave_out
from tests.ports import free_ports
from tests.postgres import Server, ServerUnavailable, launch
from tests.worker import until

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
TABLES = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.users (id bigint PRIMARY KEY, email text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE shop.orders (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES shop.users,
        status text NOT NULL DEFAULT 'pending', amount numeric(12, 2) NOT NULL, email text, paid_at timestamptz);
    ALTER TABLE shop.orders REPLICA IDENTITY FULL;
    INSERT INTO shop.users VALUES (3, 'ada@example.com');
    INSERT INTO shop.orders VALUES (1, 3, 'pending', 29.70, ' Ada@Example.com');
"""
EXAMPLE = """
    examples:
      - old: {id: 7, status: pending}
        new: {id: 7, user_id: 3, status: paid, amount: "29.70", email: null, paid_at: null}
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
    (r"─+", "─"),
    (r"\s+", " "),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def plain(text: str) -> list[str]:
    """The lines without what differs from run to run; empty lines are left out."""
    lines = []
    for line in text.splitlines():
        for pattern, instead in DIFFERS:
            line = re.sub(pattern, instead, line)  # noqa: PLW2901
        lines.append(line.strip())
    return [line for line in lines if line]


def shown(documented: list[str], printed: list[str]) -> bool:
    """Whether the printed lines have the documented ones, in order. `…`: what is left out."""
    rest = iter(printed)
    return all(
        any(line.startswith(want[:-1]) if want[-1] == "…" else line == want for line in rest)
        for want in documented
        if want != "…"
    )


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
    def beside(self, command: str) -> Iterator[None]:
        process = self._start(f"exec {command.removesuffix('&')}")
        try:
            yield
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


def test_the_five_steps_print_what_the_readme_shows(own: Server, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, own)
    own.execute("CREATE DATABASE shop")
    own.execute(TABLES, "shop")
    [statement], [mapping, *_], [event, *_] = blocks("sql"), blocks("yaml"), blocks("json")
    terminal.run("cdc-tracker sql role | psql -d shop")
    pairs = [
        (command.partition("  #")[0].strip(), plain(output))
        for block in blocks("console")
        for command, output in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]
    assert [command.split()[1] for command, _ in pairs] == [
        "init",
        "test-mappings",
        "check",
        "setup",
        "-v",
        "setup",
        "preview",
        "run",
        "status",
    ]
    *steps, (run, _), (status, healthy) = pairs
    for command, documented in steps:
        if "preview" in command:
            threading.Thread(target=pay, args=(own, statement)).start()
        printed = plain(terminal.run(command))
        assert shown(documented, printed), "\n".join([command, *printed])
        if "init" in command:
            (tmp_path / "mappings/orders.yml").write_text(mapping + EXAMPLE)
            config = tmp_path / "cdc-tracker.yml"
            config.write_text(config.read_text().replace("destinations:\n", WAREHOUSE, 1))
    with terminal.beside(run):
        until((tmp_path / "events-000001.jsonl").exists, "the event is there")
        until(lambda: shown(healthy, plain(terminal.run(f"{status} || true"))), "all is well")
    [line] = (tmp_path / "events-000001.jsonl").read_text().splitlines()
    assert without_place(line) == without_place(event)


def pay(server: Server, statement: str) -> None:
    """Once `preview` reads: it does not show what committed before."""
    until(lambda: bool(server.value("SELECT count(*) FROM pg_replication_slots WHERE temporary AND active")), "preview reads")
    server.execute(statement, "shop")


def without_place(text: str) -> dict[str, object]:
    """An event without its id and its place in the WAL, which are the server's."""
    event: dict[str, object] = json.loads(text, parse_float=str)
    assert re.fullmatch(r"[0-9a-f-]{36}", str(event.pop("messageId")))
    source = event["context"]["source"]  # type: ignore[index]
    return event | {"context": sorted(source), "keys": list(event)}
