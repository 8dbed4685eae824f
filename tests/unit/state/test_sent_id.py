"""What the sent-ledger keeps of an event's id."""

from __future__ import annotations

import uuid

from cdc_tracker.state import sent_id


def test_an_id_has_16_bytes_whatever_it_was() -> None:
    known = uuid.uuid5(uuid.NAMESPACE_URL, "https://example.org")
    assert sent_id(str(known)) == known.bytes
    others = [str(known).upper(), known.hex, f"{known} ", "", "order-7", "Grüße", "x" * 5000, "{" + str(known) + "}"]
    found = {sent_id(other) for other in others}
    assert len(found) == len(others)
    assert known.bytes not in found
    assert {len(one) for one in found} == {16}
