"""A real MariaDB server, and the SQL destination's kits on it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql

from cdc_tracker.worker.processes import spawn
from tests.ports import free_ports
from tests.vendors.kit import EngineUnavailable, Kit, OpenKit, Place, made
from tests.vendors.sql import call_of_row, dropped, kept

START_SECONDS = 60.0
_PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/libexec")
_HELD = """
    SELECT message_id, type, event, user_id, anonymous_id, group_id, previous_id, properties, traits, context,
           DATE_FORMAT(timestamp, '%Y-%m-%dT%H:%i:%s.%fZ') FROM tracks ORDER BY timestamp"""


class MariaDb:
    """One server in a temporary directory; `root` has no password on its socket and on 127.0.0.1."""

    def __init__(self) -> None:
        self._server, self._install = _program("mariadbd"), _program("mariadb-install-db")
        self._root = Path(tempfile.mkdtemp(prefix="cdc-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
        self.socket = self._root / "socket"
        [self.port] = free_ports(1)
        self.log = self._root / "log"
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> MariaDb:
        user = [f"--user={self._account.pw_name}"] if self._account else []
        if self._account:
            os.chown(self._root, self._account.pw_uid, self._account.pw_gid)
        common = ["--no-defaults", f"--datadir={self._root / 'data'}"]
        done = subprocess.run(
            [self._install, *common, *user, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
        )
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db failed: {done.stdout}{done.stderr}")
        options = [f"--socket={self.socket}", f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        options += [f"--pid-file={self._root / 'pid'}", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=2"]
        # Other than ours, so that a test notices who relies on the server's: zone, mode, character set.
        options += ["--default-time-zone=+05:30", "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES", "--character-set-server=latin1"]
        with self.log.open("ab") as log:
            uid, gid = (self._account.pw_uid, self._account.pw_gid) if self._account else (None, None)
            self._process = spawn([self._server, *common, *options], log, cwd="/", user=uid, group=gid)
        deadline = time.monotonic() + START_SECONDS
        while not self.socket.exists():  # it is there once connections are taken
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MariaDB did not start:\n{self.log.read_text()}")
            time.sleep(0.02)
        self.connect().close()
        return self

    def connect(self, database: str | None = None) -> pymysql.Connection[Any]:
        """As root, in autocommit, with names in double quotes; the caller closes it."""
        return pymysql.connect(
            unix_socket=str(self.socket),
            user="root",
            database=database,
            autocommit=True,
            charset="utf8mb4",
            sql_mode="ANSI_QUOTES",
        )

    def rows(self, query: str, database: str | None = None) -> list[tuple[Any, ...]]:
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def url(self, database: str, user: str = "root", password: str = "", *, port: int | None = None) -> str:
        """By socket; with `port`, by TCP."""
        secret = f":{quote(password, safe='')}" if password else ""
        if port is not None:
            return f"mysql://{user}{secret}@127.0.0.1:{port}/{database}"
        return f"mariadb://{user}{secret}@localhost/{database}?unix_socket={quote(str(self.socket), safe='')}"

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        name = f"t_{secrets.token_hex(6)}"
        self.rows(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            self.rows(f"DROP DATABASE {name}")

    def remove(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
        shutil.rmtree(self._root, ignore_errors=True)


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES)))
    if found is None:
        raise EngineUnavailable("there is no MariaDB server: apt-get install mariadb-server")
    return found


def _account() -> pwd.struct_passwd | None:
    """It refuses to run as root: the account to run as then, None when we are a plain user ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("mysql", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EngineUnavailable("running as root, and there is neither a user mysql nor nobody to run MariaDB as")


@contextmanager
def engine() -> Iterator[MariaDb]:
    server = MariaDb()
    try:
        yield server.start()
    finally:
        server.remove()


@contextmanager
def _kit(place: Place, typed: bool) -> Iterator[Kit]:
    server: MariaDb = place.engines.get("mariadb")
    with server.fresh_database() as name:
        opened = made("sql", place.folder, url=server.url(name), table_per_event=typed)

        def held() -> list[dict[str, Any]]:
            return [call_of_row(row) for row in server.rows(_HELD, name)]

        def run(statement: str) -> list[str]:
            return [row[0] for row in server.rows(statement, name)]

        listed = f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{name}'"
        yield Kit(
            opened,
            held,
            keeps_repeats=False,
            exactly_once=True,
            keep=lambda: kept(run, listed),
            remove=lambda: dropped(run, listed),
        )


KITS: dict[str, OpenKit] = {
    "mariadb": lambda place: _kit(place, typed=False),
    "mariadb-typed": lambda place: _kit(place, typed=True),
}
HOLDERS = list(KITS)
