"""A database to try migrations in: on an embedded server that is thrown away, or on a server of the user's own."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from cdc_tracker.embedded import Server, binaries
from cdc_tracker.sources.postgres.connection import Connection, connect, on_database
from cdc_tracker.sources.postgres.quoting import quoted
from cdc_tracker.worker.processes import ends_with_us

SECONDS = 60.0  # for all statements of one file, and for each of them
_GRACE = 2.0  # seconds for psql to report a statement that the server has given up
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}
STAND_INS = {
    "citext": "CREATE DOMAIN citext AS text;",
    "hstore": "CREATE DOMAIN hstore AS text;",
    "ltree": "CREATE DOMAIN ltree AS text;",
    "pgcrypto": "",
    "uuid-ossp": "CREATE FUNCTION uuid_generate_v4() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';",
    "unaccent": "CREATE FUNCTION unaccent(text) RETURNS text LANGUAGE sql AS 'SELECT $1';",
    "pg_trgm": "",
    "btree_gin": "",
    "btree_gist": "",
    "pg_stat_statements": "",
}
"""Extensions that the embedded server lacks: what of them a table's definition may need."""

_KEPT = """
DO $$ BEGIN
    IF now() <> statement_timestamp() THEN RAISE 'it leaves a transaction open: nothing of it would be kept'; END IF;
    IF current_database() <> '{name}' THEN RAISE 'it connects to another database'; END IF;
END $$
"""
_ERROR = re.compile(r"^(?:psql:(?P<place>.*?:\d+): )?(?:psql: )?(?:ERROR|FATAL|PANIC|error): +(?P<text>.*)$", re.MULTILINE)
_ROLE = re.compile(r'role "(.+)" does not exist')


class Scratch:
    """A server to try things on. `throwaway`: it is ours alone, so that roles may be created on it."""

    def __init__(self, url: str, psql: Path, *, throwaway: bool) -> None:
        self.throwaway = throwaway
        self._url = url
        self._psql = psql

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new database, which is dropped at the end."""
        name = f"cdc_tracker_scratch_{secrets.token_hex(6)}"
        with closing(connect(self._url, statement_timeout=SECONDS)) as server:
            server.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0 ENCODING 'UTF8'".encode())
            try:
                yield name
            finally:
                server.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)".encode())

    @contextmanager
    def connection(self, name: str) -> Iterator[Connection]:
        """A connection to the database, as every connection to a source."""
        with closing(connect(on_database(self._url, name)[0], statement_timeout=SECONDS)) as opened:
            yield opened

    def create_roles(self, errors: Sequence[str]) -> bool:
        """Creates the roles for lack of which statements failed; whether there was one to create."""
        missing = {found[1] for error in errors if (found := _ROLE.search(error))} if self.throwaway else set()
        with closing(connect(self._url)) as server:
            for role in missing:
                server.execute(f"CREATE ROLE {quoted(role)}".encode())
        return bool(missing)

    def run(self, name: str, text: str, *, label: str, folder: Path, stop: bool = True) -> list[str]:
        """Runs a script by psql; returns what failed, as `label:line: text`. `stop`: at the first of them.

        `folder`: what `\\i` starts from. Never takes longer than SECONDS.
        """
        url, password = on_database(self._url, name, without_password=True)
        environment = {"PGOPTIONS": f"-c statement_timeout={SECONDS:g}s", "PGCLIENTENCODING": "UTF8", "LC_ALL": "C"}
        if password:  # not among the arguments, which everybody on this machine can read
            environment["PGPASSWORD"] = password
        command = [str(self._psql), "-Xqw", "-v", f"ON_ERROR_STOP={int(stop)}", "-d", url]
        command += ["-f", "-", "-c", _KEPT.format(name=name)]
        try:
            output, told = _talk(command, f"{text}\n\\echo {name}\n", folder, environment)
        except subprocess.TimeoutExpired:
            return [f"{label}: it has not ended after {SECONDS:g} s"]
        errors = [f"{(each['place'] or label).replace('<stdin>', label)}: {each['text']}" for each in _ERROR.finditer(told)]
        if not errors and not output.rstrip().endswith(name):
            errors = [f"{label}: {told.strip() or 'it ends psql before its last line'}"]
        return errors


def _talk(command: list[str], text: str, folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Standard output and error of a program that reads the text. Ends it, and what it has started, if it takes too long."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,  # without a terminal, of which `\\prompt` could ask
        preexec_fn=ends_with_us(),  # noqa: PLW1509 - prctl only
    )
    try:
        return process.communicate(text, timeout=SECONDS + _GRACE)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise


@contextmanager
def scratch(url: str | None) -> Iterator[Scratch]:
    """A server of the user's by its URL, or an embedded one for the time of the block. Raises CdcTrackerError."""
    if url is not None:
        found = shutil.which("psql")
        yield Scratch(url, Path(found) if found else binaries() / "psql", throwaway=False)
        return
    server = Server(settings=_SETTINGS)
    _write_stand_ins(server.place)
    server.settings["extension_control_path"] = f"$system:{server.place}"
    with server:
        yield Scratch(server.url, binaries() / "psql", throwaway=True)


def _write_stand_ins(place: Path) -> None:
    folder = place / "extension"
    folder.mkdir()
    for name, statements in STAND_INS.items():
        (folder / f"{name}.control").write_text("default_version = '0'\nrelocatable = true\n")
        (folder / f"{name}--0.sql").write_text(statements)
    for path in (folder, *folder.iterdir()):  # the server may run as another account, whatever our umask is
        path.chmod(0o755)
