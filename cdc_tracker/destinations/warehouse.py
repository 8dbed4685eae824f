"""Events in a warehouse, through dlt (https://dlthub.com): BigQuery, Snowflake, Redshift, Databricks, ClickHouse, DuckDB.

A batch and its position are one load package of dlt: the events are merged on `message_id`, the position is a row of
`cdc_tracker_checkpoints`. dlt records a package in `_dlt_loads` when it is complete, and a position is valid only with that
record. So after a load that was killed halfway the previous position is valid, the events are sent again, and the merge
replaces each of them: the same load twice has the effect of one. dlt's working folder is emptied at every start, with whatever
a killed load left; nothing is remembered outside of the warehouse.

Read in dlt 1.31's sources and documentation: the order of staging, merge and `_dlt_loads`; merges are delete and insert, in one
transaction where the warehouse has transactions; its log goes to standard error (silenced: errors are raised, too); its
anonymous telemetry (off); in the main thread it replaces the handlers of SIGINT and SIGTERM (so it runs in another).
Tested, kills included, on DuckDB only; for the other engines this describes what dlt documents.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, SecretStr, model_validator

from cdc_tracker.destinations.base import Cursor, DestinationSettings, Guarantee, Limits
from cdc_tracker.destinations.support import arrow_columns
from cdc_tracker.destinations.support.exactly_once import moved
from cdc_tracker.destinations.support.naming import snake_case
from cdc_tracker.destinations.support.urls import passwords, said
from cdc_tracker.errors import CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable
from cdc_tracker.model import DELIVERED, Batch, Position, Receipt
from cdc_tracker.units import Duration

T = TypeVar("T")
_CHECKPOINTS = "cdc_tracker_checkpoints"
_IDENTIFIER = r"^[a-z_][a-z0-9_]{0,62}$"
_EVENT_BYTES = {"redshift": 65_535, "snowflake": 16 * 1024**2, "bigquery": 10 * 1000**2}  # of a text or a row
_INTERVALS = {"bigquery": 60.0}  # it takes 1,500 loads a day and table
_LARGE_BATCH = 5_000  # events of a batch that has others behind it
_QUIET = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "RUNTIME__REQUEST_MAX_ATTEMPTS": "2",
    "LOAD__RAISE_ON_MAX_RETRIES": "2",  # the core retries without limit
    "NORMALIZE__WORKERS": "1",
}


class WarehouseSettings(DestinationSettings):
    type: Literal["warehouse"] = "warehouse"
    in_flight: int = Field(default=1, ge=1, le=1, description="always 1: the checkpoint moves in order")
    engine: Literal["bigquery", "snowflake", "redshift", "databricks", "clickhouse", "duckdb"]
    credentials: SecretStr = Field(description="as dlt takes them: a URL or JSON; for duckdb the file")
    dataset: str = Field(default="analytics", pattern=_IDENTIFIER, description="made where missing; a schema elsewhere")
    table: str = Field(default="tracks", pattern=_IDENTIFIER)
    every: Duration | None = Field(
        default=None, ge=0, description="between loads, unless much is waiting; bigquery: 60s, else 0s"
    )
    work_dir: str = Field(default=".warehouse", description="for files under way; emptied at every start")

    @model_validator(mode="after")
    def _holds(self) -> WarehouseSettings:
        if not self.credentials.get_secret_value().strip():
            raise ValueError("`credentials` is empty")
        return self


class WarehouseDestination:
    """Imports dlt and connects when first needed."""

    Settings: ClassVar[type[DestinationSettings]] = WarehouseSettings
    guarantee: ClassVar[Guarantee] = "exactly once"
    duplicate_handling: ClassVar[str] = (
        "replaces it by its message_id: after a rewind under a changed mapping the new contents are kept"
    )
    dedupe_window: ClassVar[float] = math.inf
    age_limit: ClassVar[float] = math.inf

    def __init__(self, name: str, settings: WarehouseSettings, base: Path) -> None:
        largest = _EVENT_BYTES.get(settings.engine, 1 << 30)
        self.limits = Limits(events=100_000, batch_bytes=64 * 1024**2, event_bytes=largest, whole_changes=True)
        self._settings = settings
        self._key = re.sub(r"[^\w.-]", "_", name)
        self._old_key = ""  # of versions without cursors
        self._owns: Callable[[Position], bool] = lambda position: False
        self._name = f"cdc_tracker_{snake_case(name)}"
        self._work = base / settings.work_dir / self._key
        secret = settings.credentials.get_secret_value()
        self._credentials = _duckdb_file(secret, base) if settings.engine == "duckdb" else _credentials(settings.engine, secret)
        self._secrets = [] if settings.engine == "duckdb" else sorted(_secrets_of(secret), key=len, reverse=True)
        self._interval = _INTERVALS.get(settings.engine, 0.0) if settings.every is None else settings.every
        self._loaded = -math.inf
        self._pipeline: Any = None
        self._stored: tuple[int, Position | None] | None = None  # step and position; None: read them first
        self._possible: list[tuple[int, Position | None]] = []  # possibly stored: the last, and those of failed loads
        # dlt keeps state by thread, and handles signals in the main one.
        self._pool: ThreadPoolExecutor | None = None

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        self._old_key, self._owns, self._key = self._key, owns, cursor.key
        self._name = f"cdc_tracker_{snake_case(cursor.key)}"
        self._work = self._work.with_name(cursor.key)

    def deliver(self, batch: Batch) -> list[Receipt]:
        """Durable on return. Raises DestinationUnavailable or DestinationBlocked: then the position is unchanged."""
        if len(batch.events) < _LARGE_BATCH:
            time.sleep(max(0.0, self._loaded + self._interval - time.monotonic()))
        rows = arrow_columns.table(batch.events) if self._ready() and batch.events else None
        self._load(rows, None if batch.out_of_band else batch.upto)
        return [DELIVERED] * len(batch.events)

    def position(self) -> Position | None:
        return self._checkpoint()[1]

    def rewind(self, to: Position) -> None:
        self._load(None, to)

    def probe(self) -> None:
        self._in_thread(lambda: self._query("SELECT 1"))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = self._pipeline = self._stored = None
        shutil.rmtree(self._work, ignore_errors=True)
        with suppress(OSError):
            self._work.parent.rmdir()

    # In dlt's thread.

    def _in_thread(self, call: Callable[[], T]) -> T:
        """Runs the call in dlt's thread. An exception of dlt becomes a CdcTrackerError, and the pipeline is reopened later."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"dlt-{self._key}")
        try:
            return self._pool.submit(call).result()
        except CdcTrackerError:
            self._pipeline = self._stored = None
            raise
        except Exception as error:  # dlt's, a dozen clients', and those of their HTTP and login libraries
            self._pipeline = self._stored = None
            raise self._translated(error) from None

    def _ready(self) -> bool:
        return self._in_thread(lambda: self._open() is not None)

    def _open(self) -> Any:
        if self._pipeline is None:
            arrow_columns.arrow("warehouse")
            dlt = _dlt()
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(parents=True)
            # Two that load at once through one staging dataset would empty it for each other.
            apart = {"staging_dataset_name_layout": f"%s_staging_{self._key.rpartition('.')[2]}"} if self._old_key else {}
            destination = getattr(dlt.destinations, self._settings.engine)(credentials=self._credentials, **apart)
            self._pipeline = dlt.pipeline(
                self._name, destination=destination, dataset_name=self._settings.dataset, pipelines_dir=str(self._work)
            )
            self._pipeline.config.restore_from_destination = False  # the position is in a table of this destination
        return self._pipeline

    def _load(self, rows: Any, upto: Position | None) -> None:
        """Loads one package. The rows are stored when it is complete, and the position is valid when dlt has recorded it."""
        self._checkpoint()
        self._stored = None
        step, before = self._checkpoint()  # read again: the warehouse may have been restored since
        reached = (step, before) if upto is None else (step + 1, upto)
        self._stored = None
        self._possible = list(dict.fromkeys([*self._possible, reached]))

        def run() -> None:
            dlt, pipeline = _dlt(), self._open()
            parts = []
            if rows is not None:
                parts.append(dlt.resource([rows], name=self._settings.table, write_disposition="merge", primary_key="message_id"))
            if upto is not None:
                row = {"destination": self._key, "step": step + 1, "commit_lsn": upto.commit_lsn, "ordinal": upto.ordinal}
                parts.append(dlt.resource([row], name=_CHECKPOINTS, write_disposition="append"))
            if parts:
                pipeline.run(parts)
            for done in (self._work / self._name / "load" / "loaded").iterdir():  # dlt keeps a folder for each
                shutil.rmtree(done, ignore_errors=True)

        self._in_thread(run)
        self._loaded = time.monotonic()
        self._stored, self._possible = reached, [reached]

    def _checkpoint(self) -> tuple[int, Position | None]:
        if self._stored is None:
            found = self._in_thread(self._read_checkpoint)
            if self._possible and found not in self._possible:
                self._possible = []
                raise moved(f"{self._settings.engine}/{self._settings.dataset}")
            self._stored, self._possible = found, [found]
        return self._stored

    def _read_checkpoint(self) -> tuple[int, Position | None]:
        """The position under the cursor; if there is none, that of an earlier version without cursors, if it is this source's."""
        found = self._last_loaded(self._key)
        if found[1] is None and self._old_key:
            old = self._last_loaded(self._old_key)
            if old[1] is not None and self._owns(old[1]):
                return old
        return found

    def _last_loaded(self, key: str) -> tuple[int, Position | None]:
        """The last position whose load is recorded as complete."""
        query = f"""
            SELECT c.step, c.commit_lsn, c.ordinal FROM {{{_CHECKPOINTS}}} c JOIN {{_dlt_loads}} l ON l.load_id = c._dlt_load_id
            WHERE c.destination = '{key}' AND l.status = 0 ORDER BY c.step DESC LIMIT 1"""
        found = self._query(query)
        return (int(found[0]), Position(int(found[1]), int(found[2]))) if found else (0, None)

    def _query(self, query: str) -> Any:
        """The first row; None if there is none, or no such table yet."""
        from dlt.destinations.exceptions import DatabaseUndefinedRelation  # noqa: PLC0415

        with self._open().sql_client() as client:
            for table in (_CHECKPOINTS, "_dlt_loads"):
                query = query.replace(f"{{{table}}}", client.make_qualified_table_name(table))
            try:
                found = client.execute_sql(query)
            except DatabaseUndefinedRelation:
                return None
        return found[0] if found else None

    def _translated(self, error: Exception) -> CdcTrackerError:
        chain = list(_chain(error))
        text = f"{self._settings.engine}/{self._settings.dataset}: {said(chain[-1], self._secrets)[:400]}"
        kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
        if "MissingDependencyException" in kinds or "ModuleNotFoundError" in kinds:
            return ConfigError(text, hint=f"pip install 'dlt[{self._settings.engine}]'")
        if "ConfigurationException" in kinds:
            return ConfigError(text, hint=f"correct `credentials`: dlt's page on {self._settings.engine} lists them")
        passing = {"DestinationTransientException", "LoadClientJobRetry", "OSError", "IOException", "DestinationConnectionError"}
        if "DestinationTerminalException" in kinds or "LoadClientJobFailed" in kinds:
            hint = "grant what dlt needs there: to make the dataset, its _staging datasets and tables, to write and to delete"
            return DestinationUnavailable(text) if kinds & (passing - {"OSError"}) else DestinationBlocked(text, hint=hint)
        return DestinationUnavailable(text)


def _dlt() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # read at its import, which takes a second
    try:
        import dlt  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("dlt is missing", hint="pip install 'cdc-tracker[warehouse]'") from error
    return dlt


def _duckdb_file(text: str, base: Path) -> str:
    path = base / text.removeprefix("duckdb:///")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of the DuckDB file does not exist")
    return str(path)


def _credentials(engine: str, secret: str) -> Any:
    """A URL as it is, JSON as an object, except for a Google service account's key, which dlt reads by itself."""
    if engine == "bigquery" or not secret.lstrip().startswith("{"):
        return secret
    try:
        return json.loads(secret)
    except ValueError:
        raise ConfigError("`credentials` begins like JSON, and is none") from None


def _secrets_of(secret: str) -> Iterator[str]:
    """Returns the texts to redact: the whole text, a URL's password, the values of the JSON."""
    yield secret
    yield from passwords(secret)
    with suppress(ValueError):
        found = json.loads(secret)
        yield from (value for value in found.values() if isinstance(value, str) and len(value) > 5)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and its causes."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
