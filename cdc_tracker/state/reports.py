"""Role reports: what each role last reported of itself."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import bindparam, select, text

from cdc_tracker.state.process_identity import identity
from cdc_tracker.state.records import RoleRecord, now
from cdc_tracker.state.tables import roles as t
from cdc_tracker.state.transactions import Aggregate

_columns = [column.name for column in t.c]
_REPORT = text(
    f"INSERT INTO cdc_tracker_role ({', '.join(_columns)}) VALUES ({', '.join(f':{name}' for name in _columns)}) "
    "ON CONFLICT (source, role) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _columns if name not in ("source", "role"))
)
_ALL = select(t).where(t.c.source == bindparam("of_source")).order_by(t.c.role)


class Reports(Aggregate):
    def save(self, source: str, role: str, pid: int, state: str, detail: Mapping[str, Any]) -> None:
        """Replace the role's report. Does nothing once this process was fenced or has lost its lock."""
        if self._transactions.lost:
            return
        values = {"source": source, "role": role, "pid": pid, "host": socket.gethostname(), "state": state, "process": identity()}
        said = msgspec.json.encode(detail).decode()
        with self._transactions.writing() as connection:
            connection.execute(_REPORT, values | {"detail": said, "updated_at": now()})

    def all(self, source: str) -> list[RoleRecord]:
        with self._transactions.reading() as connection:
            return [
                RoleRecord(
                    row.source,
                    row.role,
                    row.pid,
                    row.host,
                    row.state,
                    msgspec.json.decode(row.detail),
                    row.updated_at,
                    row.process,
                )
                for row in connection.execute(_ALL, {"of_source": source})
            ]
