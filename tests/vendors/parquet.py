"""Parquet files on disk and in a bucket."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.parquet as pq

from tests.vendors.kit import Kit, OpenKit, Place, made
from tests.vendors.local import folder_kept
from tests.vendors.s3 import ACCESS_KEY, S3, SECRET_KEY
from tests.vendors.sql import call_of_row

COLUMNS = ["message_id", "type", "event", "user_id", "anonymous_id", "group_id", "previous_id", "properties", "traits", "context"]


def calls(files: Iterable[bytes]) -> list[dict[str, Any]]:
    """What the files hold, ordered by time; what came again, after it."""
    rows = [row for data in files for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    seen: Counter[str] = Counter()
    for row in rows:
        row["again"] = seen[row["message_id"]]
        seen[row["message_id"]] += 1
    rows.sort(key=lambda row: (row["again"], row["timestamp"] or row["committed_at"]))
    return [call_of_row((*[row[name] for name in COLUMNS], _time(row["timestamp"]))) for row in rows]


def _time(value: Any) -> str | None:
    return None if value is None else f"{value:%Y-%m-%dT%H:%M:%S.%fZ}"


@contextmanager
def _folder(place: Place) -> Iterator[Kit]:
    def held() -> list[dict[str, Any]]:
        return calls(path.read_bytes() for path in sorted((place.folder / "lake").rglob("*.parquet")))

    lake = place.folder / "lake"
    opened = made("parquet", place.folder, path="lake", grow="20KB")
    yield Kit(
        opened, held, keeps_repeats=True, exactly_once=True, keep=lambda: folder_kept(lake), remove=lambda: shutil.rmtree(lake)
    )


@contextmanager
def _bucket(place: Place) -> Iterator[Kit]:
    server: S3 = place.engines.get("s3")
    with server.fresh_bucket() as bucket:
        opened = made(
            "parquet",
            place.folder,
            path=f"s3://{bucket}/lake",
            endpoint=server.url,
            region="us-east-1",
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            grow="20KB",
        )
        yield Kit(
            opened,
            lambda: calls(server.objects(bucket, ".parquet").values()),
            keeps_repeats=True,
            exactly_once=True,
            keep=lambda: server.kept(bucket),
            remove=lambda: server.fill(bucket, {}),
        )


KITS: dict[str, OpenKit] = {"parquet": _folder, "parquet-s3": _bucket}
HOLDERS = list(KITS)
