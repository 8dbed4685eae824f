"""What the tests of the state store put into it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdc_tracker.model import Position, Rejection
from cdc_tracker.state import DeadLetter, LedgerRow, Lock, Selection, SourceRecord, State
from cdc_tracker.state.records import HOUR

RECORD = SourceRecord(
    name="main",
    system_id="7301234567890123456",
    database="shop",
    slot="cdc_tracker",
    plugin="pgoutput",
    namespace="2f1c7b1e-57a1-5d0c-8a5b-6d2b8f1f0a11",
    epoch=0,
    created_lsn=0x16_B374D848,
    confirmed_lsn=0x16_B374D848,
    timeline=1,
)
ALL = Selection()


def letter(lsn: int, ordinal: int = 0, *, mapping: str = "Order Paid", hour: int = 3, counted: bool = True) -> DeadLetter:
    rejection = Rejection(
        reason="type_mismatch",
        mapping=mapping,
        position=Position(lsn, ordinal),
        committed_at=hour * HOUR + 5,
        field="properties.revenue",
        value_type="str",
        detail="expected a number",
        event_id="e-1",
    )
    return DeadLetter.of("main", "jsonl", rejection, b"segment of %d" % lsn, counted=counted)


def rejected(count: int, mapping: str = "Order Paid", hour: int = 3) -> dict[tuple[int, str, str], int]:
    return {(hour, mapping, "matched"): count, (hour, mapping, "rejected"): count}


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread looks after a lock: only the test does."""
    monkeypatch.setattr(Lock, "_watch", lambda _self, ended: ended.close())


class OpenedStore:
    """A subclass gives the fixture `url`, and tests of `state`."""

    @pytest.fixture
    def state(self, url: str) -> Iterator[State]:
        with State.open(url) as opened:
            opened.checkpoints.create("main", "jsonl", Position(100, -1))
            yield opened

    def ledger_row(self, state: State) -> LedgerRow:
        (row,) = state.ledger.rows("main", "jsonl")
        return row
