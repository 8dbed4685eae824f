"""What each role last said of itself, on a connection in a transaction that the caller owns."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select, text

from cdc_tracker.state.checkpoints import now
from cdc_tracker.state.process_identity import identity
from cdc_tracker.state.records import RoleRecord
from cdc_tracker.state.tables import roles as t

_columns = [column.name for column in t.c]
_REPORT = text(
    f"INSERT INTO cdc_tracker_role ({', '.join(_columns)}) VALUES ({', '.join(f':{name}' for name in _columns)}) "
    "ON CONFLICT (source, role) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _columns if name not in ("source", "role"))
)
_ALL = select(t).where(t.c.source == bindparam("of_source")).order_by(t.c.role)


def report(connection: Connection, source: str, role: str, pid: int, state: str, detail: Mapping[str, Any]) -> None:
    values = {"source": source, "role": role, "pid": pid, "host": socket.gethostname(), "state": state, "process": identity()}
    said = msgspec.json.encode(detail).decode()
    connection.execute(_REPORT, values | {"detail": said, "updated_at": now()})


def every(connection: Connection, source: str) -> list[RoleRecord]:
    return [
        RoleRecord(
            row.source, row.role, row.pid, row.host, row.state, msgspec.json.decode(row.detail), row.updated_at, row.process
        )
        for row in connection.execute(_ALL, {"of_source": source})
    ]
