"""The generated functions that read rows show their lines in a traceback, with the columns' names."""

from __future__ import annotations

import inspect
import struct
import traceback

import pytest

from cdc_tracker.model import Column, Relation
from cdc_tracker.sources.postgres.pgoutput.rows import compiled

RELATION = Relation("shop", "orders", (Column("id", 20, True), Column("note text", 25, False)), "f")


def test_a_traceback_shows_the_table_and_the_line() -> None:
    inserted, _, old = compiled(RELATION, [0], [0, 1])
    with pytest.raises(struct.error) as caught:
        inserted(b"", 0, 0)
    text = "".join(traceback.format_exception(caught.value))
    assert 'File "<pgoutput shop.orders inserted' in text and "kind, size = cell(frames, at)" in text
    assert "note_text = frames[start:at].decode()" in inspect.getsource(old)
