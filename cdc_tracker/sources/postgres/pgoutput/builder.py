"""Frames → segments: changes are counted, and the relations that they need are carried along."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Callable
from operator import itemgetter

from cdc_tracker.model import OpenTransaction, Position
from cdc_tracker.sources.postgres.pgoutput.messages import (
    BEGIN,
    COMMIT,
    COMMIT_BODY,
    LEFT_OUT,
    MESSAGE,
    OURS,
    RELATION,
    ROWS,
    SHORT,
    TEXT,
    TRUNCATE,
    UINT,
    transaction_of,
    truncated,
)
from cdc_tracker.sources.postgres.segments import PAYLOAD, Frame, SegmentBuilder


def options(publications: str) -> dict[str, str]:
    """START_REPLICATION's options. `publications` is a comma-separated list of quoted names."""
    return {"proto_version": "1", "publication_names": publications, "messages": "true"}


class Builder(SegmentBuilder):
    """Adds to each segment the relation messages that its frames need, as they were before them."""

    plugin = "pgoutput"

    def __init__(
        self,
        after: Position,
        left_off: OpenTransaction | None = None,
        *,
        max_row: int = sys.maxsize,
        to_utf8: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`to_utf8` converts the content of a logical message, which arrives in the server's encoding. None: that is UTF8, or the
        server does not know it either."""
        super().__init__(after, left_off, max_row=max_row)
        self._to_utf8 = to_utf8
        self._described: dict[bytes, bytes] = {}

    def _reset(self) -> None:
        super()._reset()
        self._carried: set[bytes] = set()

    def add(self, frame: Frame) -> None:
        """Adds one frame; see SegmentBuilder."""
        kind = frame[PAYLOAD]
        if kind in ROWS:
            if self._change(frame):
                relation = bytes(frame[PAYLOAD + 1 : PAYLOAD + 5])
                if relation not in self._carried:
                    self._carry(relation)
        elif kind == BEGIN:
            payload = bytes(frame[PAYLOAD:])
            self._begin_transaction(transaction_of(payload, 0), payload)
        elif kind == COMMIT:
            self._end_transaction(COMMIT_BODY.unpack_from(frame, PAYLOAD)[1])
        else:
            self._add_rare(kind, frame)

    def _add_rare(self, kind: int, frame: Frame) -> None:
        if kind == MESSAGE and not (frame[PAYLOAD + 1] & 1 and bytes(frame[PAYLOAD + 10 : PAYLOAD + 50]).startswith(OURS)):
            return
        payload = bytes(frame[PAYLOAD:])
        if kind == RELATION:
            relation = payload[1:5]
            known = self._described.get(relation)
            self._described[relation] = payload
            if relation in self._carried and payload != known:  # changed within this segment: stored between its frames
                self._push(frame[1:9], payload)
        elif kind == TRUNCATE:
            relations = truncated(payload)
            if self._change(frame, len(relations)):
                for relation in relations:
                    self._carry(relation)
        elif kind == MESSAGE:
            self._change(memoryview(bytes(frame[:PAYLOAD]) + self._in_utf8(payload)) if self._to_utf8 else frame)

    def _in_utf8(self, payload: bytes) -> bytes:
        at = payload.index(b"\0", 10) + 5
        content = payload[at:]
        if self._to_utf8 is None or content.isascii() or content.startswith(BOM_UTF8):
            return payload
        content = self._to_utf8(content)
        return payload[: at - 4] + UINT.pack(len(content)) + content

    def _shortened(self, payload: Frame) -> bytes:
        """A row without its largest values, a message without its content."""
        if payload[0] == MESSAGE:  # the length stays, which shows that the content is missing
            return bytes(payload[: bytes(payload[:200]).index(b"\0", 10) + 5])
        cells, at = [], 5
        while at < len(payload):
            (count,) = SHORT.unpack_from(payload, at + 1)
            at += 3
            for _ in range(count):
                size = 4 + UINT.unpack_from(payload, at + 1)[0] if payload[at] == TEXT else 0
                cells.append((size, at))
                at += 1 + size
        left_out = self._largest(cells, len(payload))
        parts: list[Frame | bytes] = []
        done = 0
        for size, at in sorted(left_out, key=itemgetter(1)):
            parts += (payload[done:at], bytes([LEFT_OUT]))
            done = at + 1 + size
        return b"".join([*parts, payload[done:]])

    def _carry(self, relation: bytes) -> None:
        if relation not in self._carried:
            self._carried.add(relation)
            self._relations.append(self._described[relation])
