"""Events as Parquet files, each exactly once, in a folder or a bucket of S3 or Google Cloud Storage.

A batch becomes one file for each partition that it has events for. The files are first written into a log that no reader looks at
(`_cdc_tracker/CURSOR/`; `_cdc_tracker/NAME/` in versions without cursors). Then a record is written that names them and the
position. Then the files are moved into their partitions:

- after a kill before the record is durable, nothing counts: the staged files are removed, and the events are sent again;
- after a later kill, position and files count, and the next start moves the remaining files.

So every file that a reader's `**/*.parquet` matches counts, and appears once. Records are numbered and never overwritten: a
bucket refuses to create an object that exists. So neither a second worker nor an old request that arrives late can undo a later
record. A worker writes a record when it starts, which shuts out the previous worker. If the previous record is not the one
written last, somebody restored or removed the files.

Batches of a quiet table contain one or two events, and a file for each would be too many. So while the last file of a partition
is smaller than `grow`, it is replaced, atomically, by one to which the batch's rows are added.

Sources: those of fsspec, s3fs and gcsfs: `pipe_file(mode="create")` sends If-None-Match: * to S3 and ifGenerationMatch=0 to
Google. Tested on local disks and against moto's S3; never against Amazon or Google themselves, nor any server for gs://.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec
from pydantic import Field, SecretStr, field_validator

from cdc_tracker.destinations.base import Cursor, DestinationSettings, Limits
from cdc_tracker.destinations.parquet.log import SUFFIX, Growing, Record, decode, encode, newest, record_name, records_among
from cdc_tracker.destinations.parquet.stores import Bucket, Folder, Store
from cdc_tracker.destinations.support import arrow_columns
from cdc_tracker.destinations.support.exactly_once import NamedBatches, Stored, moved
from cdc_tracker.destinations.support.naming import TABLES, identifier, snake_case
from cdc_tracker.errors import AlreadyRunning, CdcTrackerError, CheckpointMoved
from cdc_tracker.model import Batch, Position, Receipt
from cdc_tracker.times import SECOND, from_micros, to_micros
from cdc_tracker.units import Size

if TYPE_CHECKING:
    import pyarrow as pa

_FIELDS = ("date", "hour", "event", "type")
_MOST_GROWING = 200  # partitions whose last file may still grow
_RECORDS = 100  # earlier ones that are kept, so that an old request that arrives late finds its number in use
_HOUR = 3600 * SECOND
_FIRST_HOUR, _LAST_HOUR = (to_micros(moment) // _HOUR for moment in (datetime.min, datetime.max))


class ParquetSettings(DestinationSettings):
    type: Literal["parquet"] = "parquet"
    in_flight: int = Field(default=1, ge=1, le=1, description="always 1: the checkpoint moves in order")
    path: str = Field(min_length=1, description="a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    partition: str = Field(default="{date}/{event}", description="folders below it, from {date}, {hour}, {event} and {type}")
    grow: Size = Field(default=1_000_000, ge=0, description="a smaller file is rewritten with the next rows; 0: never")
    compression: Literal["zstd", "snappy", "gzip", "none"] = "zstd"
    endpoint: str | None = Field(default=None, description="of an S3 that is not Amazon's")
    region: str | None = None
    access_key: str | None = Field(default=None, description="else from the environment, a profile or the machine's role")
    secret_key: SecretStr | None = None
    token: str | None = Field(default=None, description="gs:// only: the file of a service account's key")

    @field_validator("path")
    @classmethod
    def _place(cls, value: str) -> str:
        scheme, _, rest = value.partition("://")
        if "://" in value and (scheme not in ("file", "s3", "gs", "gcs") or not rest.strip("/")):
            raise ValueError("is a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        return value

    @field_validator("partition")
    @classmethod
    def _holds(cls, value: str) -> str:
        fields = set(re.findall(r"\{[^{}]*\}", value))
        example = re.sub(r"\{[^{}]*\}", "x", value)
        if not fields <= {f"{{{name}}}" for name in _FIELDS} or "{" in example or "}" in example:
            raise ValueError(f"may have {', '.join(f'{{{name}}}' for name in _FIELDS)} and nothing else in braces")
        if any(part in ("", ".", "..") or part[0] in "._" for part in example.split("/")):
            raise ValueError("is folders with slashes between, none of which begins with a dot or an underscore")
        return value


class ParquetDestination(NamedBatches):
    """Opens its store when first needed, and locks it if it is a folder."""

    Settings: ClassVar[type[DestinationSettings]] = ParquetSettings
    duplicate_handling: ClassVar[str] = "appends it again: after a rewind the files hold the same id more than once"

    def __init__(self, name: str, settings: ParquetSettings, base: Path) -> None:
        super().__init__()
        arrow_columns.arrow("parquet")
        self.limits = Limits(events=50_000, batch_bytes=32 * 1024**2, event_bytes=1 << 30, whole_changes=True)
        self._settings = settings
        self._base = base
        self._name = re.sub(r"[^\w.-]", "_", name)
        self._store = _store(settings, self._name, base)
        self._old: Store | None = None  # the log of versions without cursors
        self._record: Record | None = None
        self._possible: set[str] = set()  # tokens that the newest record may have: also those of failed writes

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        self._old, self._owns, self._name = self._store, owns, cursor.key
        self._store = _store(self._settings, self._name, self._base)

    def deliver(self, batch: Batch) -> list[Receipt]:
        """Durable on return, whole or not at all. Raises DestinationUnavailable if the store is full or cannot be reached."""
        self._check(self._newest())
        return super().deliver(batch)

    def probe(self) -> None:
        """Writes and removes a small file. Takes no lock, so it can run beside the worker."""
        self._store.probe()

    def close(self) -> None:
        self._record = None
        self._store.close()

    def _ready(self) -> Stored:
        record = self._newest()
        return Stored(record.reached, record.out_of_band, record.batch)

    def _newest(self) -> Record:
        """This process's newest record. The first time, completes the store's newest and writes one after it."""
        if self._record is None:
            self._store.close()
            self._store.open()
            names = self._store.names()
            records = records_among(names)
            found = newest(self._store) if records else self._inherited()
            if self._possible and found.token not in self._possible:
                raise self._moved()
            self._possible.add(found.token)
            self._store.publish(found.moves)
            ours = found.following()
            self._commit(ours)
            old = [name for name in records if name <= record_name(ours.sequence - _RECORDS)]
            self._store.remove(old + [name for name in names if not name.endswith(SUFFIX)])
            self._record = ours
        return self._record

    def _inherited(self) -> Record:
        """Shuts out a writer of an earlier version, without a cursor, and returns its record; an empty one if it is not ours."""
        if self._old is None or not self._old.used():
            return Record()
        found = newest(self._old)
        if found.reached is None or not self._owns(found.reached):
            return Record()
        try:
            self._old.open()
            found = newest(self._old)
            self._old.publish(found.moves)
            last = found.following()
            if not self._old.commit(record_name(last.sequence), encode(last)):
                raise AlreadyRunning(f"another process is writing to {self._settings.path}", hint="stop it first")
        finally:
            self._old.close()
        return msgspec.structs.replace(last, token="")

    def _check(self, record: Record) -> None:
        """Raises CheckpointMoved if the record that the next one follows is gone."""
        name = record_name(record.sequence)
        data = self._store.read(name)
        if data is None or decode(name, data).token != record.token:
            raise self._moved()

    def _moved(self) -> CheckpointMoved:
        self.close()
        self._possible.clear()
        return moved(self._settings.path)

    def _write(self, batch: Batch, before: Stored, after: Stored) -> None:
        record = self._newest().following(position=after.position, out_of_band=after.out_of_band, batch=after.batch)
        self._record = None  # to be read again if this fails
        growing = dict(record.growing)
        moves: list[tuple[str, str]] = []
        try:
            for partition, rows in self._parts(batch):
                path, data = self._file(record, batch, partition, rows, growing.pop(partition, None))
                moves.append((f"{record.sequence:012d}-{len(moves)}-{record.token}.staged", path))
                self._store.stage(moves[-1][0], data)
                if len(data) < self._settings.grow:
                    growing[partition] = Growing(path, len(data))
        except CdcTrackerError:
            with suppress(CdcTrackerError):
                self._store.remove([name for name, _ in moves])  # they may have filled the disk
            raise
        record = msgspec.structs.replace(record, moves=moves, growing=dict(list(growing.items())[-_MOST_GROWING:]))
        self._commit(record)
        self._store.publish(moves)
        self._store.remove([record_name(record.sequence - _RECORDS)])
        self._record = record

    def _commit(self, record: Record) -> None:
        self._possible.add(record.token)
        if not self._store.commit(record_name(record.sequence), encode(record)):
            self._resolve_conflict(record)
        self._possible = {record.token}

    def _resolve_conflict(self, record: Record) -> None:
        """Called if a record with this number exists. Raises AlreadyRunning unless a try without an answer wrote it."""
        name = record_name(record.sequence)
        data = self._store.read(name)
        if data is not None and decode(name, data).token != record.token:
            raise AlreadyRunning(
                f"another process is writing to {self._settings.path}",
                hint="two workers must not share a path and a name: stop the other one or change `path`",
            )

    def _file(self, record: Record, batch: Batch, partition: str, rows: pa.Table, last: Growing | None) -> tuple[str, bytes]:
        """Path and contents of the partition's last file with the rows added, or of a new one."""
        grown = self._grown(last, rows) if last and rows.nbytes < 8 * self._settings.grow else None
        if last and grown is not None:
            return last.path, self._encoded(grown)
        first = batch.events[0].position
        begin = f"aside-{record.out_of_band[:16]}" if batch.out_of_band else f"{first.commit_lsn:016X}-{first.ordinal}"
        return f"{partition}/{self._name}-{begin}-{record.sequence}.parquet", self._encoded(rows)

    def _grown(self, last: Growing, rows: pa.Table) -> pa.Table | None:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        data = self._store.fetch(last.path, last.size)
        if data is None:
            return None
        try:
            return pa.concat_tables([pq.read_table(io.BytesIO(data), schema=rows.schema), rows])
        except pa.ArrowException:  # someone has replaced it
            return None

    def _encoded(self, rows: pa.Table) -> bytes:
        import pyarrow.parquet as pq  # noqa: PLC0415

        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression=self._settings.compression)
        return buffer.getvalue()

    def _parts(self, batch: Batch) -> Iterator[tuple[str, pa.Table]]:
        """The rows by partition, each in order."""
        if not batch.events:
            return
        rows = arrow_columns.table(batch.events)
        indices: dict[tuple[Any, ...], list[int]] = {}
        hours = [_hour(time) for time in _moments(rows)]
        keys = zip(hours, rows["type"].to_pylist(), rows["event"].to_pylist(), strict=True)
        for i, key in enumerate(keys):
            indices.setdefault(key, []).append(i)
        parts: dict[str, list[int]] = {}
        for (hour, kind, event), members in indices.items():
            moment = from_micros(min(max(hour, _FIRST_HOUR), _LAST_HOUR) * _HOUR)
            values = {"date": moment.date().isoformat(), "hour": f"{moment:%H}", "type": kind, "event": _folder(kind, event)}
            parts.setdefault(self._settings.partition.format(**values), []).extend(members)
        for partition, members in parts.items():
            yield partition, rows if len(members) == len(rows) else rows.take(sorted(members))


def _store(settings: ParquetSettings, name: str, base: Path) -> Store:
    scheme = settings.path.partition("://")[0] if "://" in settings.path else ""
    if scheme in ("", "file"):
        return Folder(base / settings.path.removeprefix("file://"), name)
    secret = settings.secret_key.get_secret_value() if settings.secret_key else None
    if scheme == "s3":
        client = {"region_name": settings.region} if settings.region else {}
        options: dict[str, Any] = {"key": settings.access_key, "secret": secret, "client_kwargs": client}
        options["endpoint_url"] = settings.endpoint
        options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 60}
    else:
        options = {name: value for name, value in (("token", settings.token), ("endpoint_url", settings.endpoint)) if value}
    return Bucket(settings.path, name, options, [secret] if secret else [])


def _moments(rows: pa.Table) -> list[int]:
    """The events' times in microseconds; the commit's if an event has none."""
    own, commits = (rows[name].cast("int64").to_pylist() for name in ("timestamp", "committed_at"))
    return [commit if time is None else time for time, commit in zip(own, commits, strict=True)]


def _hour(micros: int) -> int:
    return micros // _HOUR


def _folder(kind: str, event: str | None) -> str:
    """A folder's name: the event's in snake case, in 100 bytes, with a hash if it was cut or nothing is left."""
    return TABLES.get(kind) or identifier(snake_case(event or "event"), 100, event or "event").lstrip("_")
