"""The parts that every event has, mapped or from the outbox: its id and `context.source`."""

from __future__ import annotations

import hashlib
import uuid
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

from cdc_tracker.model import Change, Op, Relation, format_lsn

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = '{"name":"cdc-tracker"}'  # without the version: an upgrade must not change an event's bytes
SNAPSHOT = ',"snapshot":true'  # the end of `context.source` of a snapshot read
_VARIANT = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}


def namespace(system_id: str, database: str, epoch: int) -> uuid.UUID:
    """The namespace of a source's event ids. `epoch` counts how often the source was declared new after a restore."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"cdc-tracker:{system_id}:{database}:{epoch}")


def id_maker(space: uuid.UUID) -> Callable[[str], str]:
    """Returns a function from a name to its UUIDv5 in the namespace, as text. Five times faster than uuid.uuid5."""
    seeded = hashlib.sha1(space.bytes, usedforsecurity=False)

    def make(name: str) -> str:
        digest = seeded.copy()
        digest.update(name.encode())
        h = digest.hexdigest()
        return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}"

    return make


def default_name(key: str, change: Change) -> str:
    """The name, for its id, of an event without a declared id: the mapping and the change."""
    return f"{key}|{change.lsn:X}|{change.index}"


def declared_name(key: str, values: str) -> str:
    """The name, for its id, of an event with a declared id: `values` is the canonical JSON list of the id's values."""
    return f"{key}|{values}"


def source_prefix(database: str, relation: Relation | None) -> str:
    """JSON text of `context.source` up to its operation, computed once per relation; `source_block` completes it."""
    table = f',"schema":{encode_basestring(relation.schema)},"table":{encode_basestring(relation.name)}' if relation else ""
    return f'{{"db":{encode_basestring(database)}{table}'


def source_block(prefix: str, change: Change) -> str:
    """JSON text of `context.source`: Debezium's fields `db, schema, table, op, lsn, txId, ts_ms`; `lsn` as pg_lsn text.

    A snapshot read has txId 0 and `"snapshot":true`.
    """
    transaction = change.transaction
    read = SNAPSHOT if change.op == Op.READ else ""
    return (
        f'{prefix},"op":"{change.op}","lsn":"{format_lsn(change.lsn)}",'
        f'"txId":{transaction.xid},"ts_ms":{transaction.committed_at // 1000}{read}}}'
    )


def quote(text: str) -> str:
    """JSON text of a string. Non-ASCII characters are not escaped."""
    return encode_basestring(text)
