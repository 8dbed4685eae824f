"""What a delivery is about to do, on a connection in a transaction that the caller owns: after a kill it does the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, bindparam, delete, select, text

from cdc_tracker.state.records import InHand
from cdc_tracker.state.tables import in_hand as t

_ONE = select(t.c.mappings, t.c.letters).where(
    t.c.source == bindparam("of_source"), t.c.destination == bindparam("of_destination")
)
_SAVE = (
    "INSERT INTO cdc_tracker_in_hand (source, destination, mappings, letters) "
    "VALUES (:source, :destination, :mappings, :letters) ON CONFLICT (source, destination) DO UPDATE SET {0} = excluded.{0}"
)
_SAVE_MAPPINGS, _SAVE_LETTERS = text(_SAVE.format("mappings")), text(_SAVE.format("letters"))


def get(connection: Connection, source: str, destination: str) -> InHand:
    row = connection.execute(_ONE, {"of_source": source, "of_destination": destination}).first()
    return InHand(*map(msgspec.json.decode, row)) if row else InHand({}, [])


def save_mappings(connection: Connection, source: str, destination: str, texts: Mapping[str, str]) -> None:
    connection.execute(_SAVE_MAPPINGS, _row(source, destination, texts, []))


def save_letters(connection: Connection, source: str, destination: str, ids: Sequence[int]) -> None:
    connection.execute(_SAVE_LETTERS, _row(source, destination, {}, ids))


def forget(connection: Connection, source: str) -> None:
    connection.execute(delete(t).where(t.c.source == source))


def _row(source: str, destination: str, texts: Mapping[str, str], ids: Sequence[int]) -> dict[str, str]:
    mappings, letters = (msgspec.json.encode(value).decode() for value in (texts, ids))
    return {"source": source, "destination": destination, "mappings": mappings, "letters": letters}
