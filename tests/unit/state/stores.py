"""What the tests of both stores share."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import MetaData

from cdc_tracker.errors import StateUnavailable
from cdc_tracker.storage.database import Database, Kind


def differences(url: str, metadata: MetaData, version_table: str) -> list[Any]:
    """What Alembic would change to make the database what the metadata says."""
    database = Database(url, Kind("the store", StateUnavailable, version_table, Path(), ("0001",)))
    try:
        with database.reading() as connection:
            options = {"version_table": version_table, "compare_type": True}
            found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
            return found
    finally:
        database.close()


def made_by_an_older_version(url: str, kind: Kind, revision: str, rows: str) -> None:
    """The store as the migrations up to `revision` made it, with what these statements (`;` between them) put into it."""
    database = Database(url, kind)
    database.path.parent.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(kind.migrations))
    try:
        with database.writing() as connection:
            config.attributes |= {"connection": connection, "version_table": kind.version_table}
            command.upgrade(config, revision)
            for statement in filter(str.strip, rows.split(";")):
                connection.exec_driver_sql(statement)
    finally:
        database.close()


@contextmanager
def tmpfs(size: str) -> Iterator[Path]:
    """A file system of its own of this size, so that it can be filled. Mounting takes root: skipped without, except in CI.

    Not in pytest's folder: a mount left by a killed run would keep every later run from clearing that up.
    """
    with tempfile.TemporaryDirectory(prefix="cdc-tracker-", ignore_cleanup_errors=True) as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "cdc-tracker-test", folder]
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
        if mounted.returncode:
            if os.environ.get("CI") == "true":
                pytest.fail(f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
            pytest.skip("mounting a small tmpfs takes root")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def program(source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a process of its own, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
