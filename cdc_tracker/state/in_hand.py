"""What each delivery is about to send, stored before it sends: after a kill it sends the same again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, bindparam, select, text

from cdc_tracker.state.records import InHand
from cdc_tracker.state.tables import in_hand as t
from cdc_tracker.state.transactions import Aggregate

_ONE = select(t.c.mappings, t.c.letters).where(
    t.c.source == bindparam("of_source"), t.c.destination == bindparam("of_destination")
)
_SAVE = (
    "INSERT INTO cdc_tracker_in_hand (source, destination, mappings, letters) "
    "VALUES (:source, :destination, :mappings, :letters) ON CONFLICT (source, destination) DO UPDATE SET {0} = excluded.{0}"
)
_SAVE_MAPPINGS, _SAVE_LETTERS = text(_SAVE.format("mappings")), text(_SAVE.format("letters"))


class DeliveriesInHand(Aggregate):
    """By destination: what the delivery is about to send."""

    def get(self, source: str, destination: str) -> InHand:
        """Returns what the delivery last stored; empty if it has stored nothing."""
        with self._transactions.reading() as connection:
            row = connection.execute(_ONE, {"of_source": source, "of_destination": destination}).first()
        return InHand(*map(msgspec.json.decode, row)) if row else InHand({}, [])

    def take_letters(self, source: str, destination: str, ids: Sequence[int]) -> None:
        """These dead letters are about to be sent again, together."""
        with self._transactions.fenced() as connection:
            save_letters(connection, source, destination, ids)

    def take_mappings(self, source: str, destination: str, texts: Mapping[str, str]) -> None:
        """Events that these mapping files made are about to be sent; what went before is committed."""
        with self._transactions.fenced() as connection:
            connection.execute(_SAVE_MAPPINGS, _row(source, destination, texts, []))


def save_letters(connection: Connection, source: str, destination: str, ids: Sequence[int]) -> None:
    """Replace the letters in hand."""
    connection.execute(_SAVE_LETTERS, _row(source, destination, {}, ids))


def _row(source: str, destination: str, texts: Mapping[str, str], ids: Sequence[int]) -> dict[str, str]:
    mappings, letters = (msgspec.json.encode(value).decode() for value in (texts, ids))
    return {"source": source, "destination": destination, "mappings": mappings, "letters": letters}
