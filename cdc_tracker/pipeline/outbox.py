"""Turns rows of an outbox table and logical messages into events. Pure.

The application writes the event; it is validated and normalised here. Its id is derived from the row's id, or is the message's
own `messageId`, so that it is the same each time the change is read.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cdc_tracker.config.settings import OutboxSettings
from cdc_tracker.envelope import LIBRARY, declared_name, default_name, id_maker, quote, source_block, source_prefix
from cdc_tracker.model import Change, Event, Missing, Rejection, Relation, Special, Text, canonical
from cdc_tracker.sources.postgres.values import codec, load_json
from cdc_tracker.times import aware

KEY = "outbox"
"""The key under which the ledger counts these events."""
PREFIX = "cdc_tracker"
"""The prefix of logical messages that are events."""

_NAMED = {"track": "event", "page": "name", "screen": "name"}
_TYPES = frozenset((*_NAMED, "identify", "group", "alias"))
_IDS = ("userId", "anonymousId", "groupId", "previousId")
_RESERVED_CONTEXT = ("source", "library")
_MAX_ID = 100

_OWN_COLUMNS = {
    "user_id": "userId",
    "anonymous_id": "anonymousId",
    "group_id": "groupId",
    "previous_id": "previousId",
    "type": "type",
    "event": "event",
    "properties": "properties",
    "context": "context",
    "timestamp": "timestamp",
    "created_at": "created_at",
}
_DEBEZIUM_COLUMNS = ("id", "aggregatetype", "aggregateid", "type", "payload")


class _Invalid(Exception):
    def __init__(self, reason: str, field: str, detail: str, value: object = None) -> None:
        super().__init__(detail)
        self.reason, self.field, self.detail = reason, field, detail
        self.value_type = "" if value is None else type(value).__name__


class _Source(NamedTuple):
    """The parts that are prepared once for each relation."""

    relation: Relation | None
    prefix: str
    loads: tuple[Callable[[str], Any], ...]


class OutboxReader:
    """Makes events of the outbox table's inserts and of logical messages. `columns`: the row columns that `from_row` takes."""

    def __init__(self, settings: OutboxSettings, namespace: uuid.UUID, database: str) -> None:
        self.table = settings.table
        self._database = database
        self._make_id = id_maker(namespace)
        self._debezium = settings.layout == "debezium"
        self._user_column, _, self._user_key = settings.user_id.partition(".")
        if self._debezium:
            own = () if self._user_column in _DEBEZIUM_COLUMNS else (self._user_column,)
            self.columns: tuple[str, ...] = (*_DEBEZIUM_COLUMNS, *own)
        else:
            self.columns = ("id", *_OWN_COLUMNS)
        self._source = _Source(None, source_prefix(database, None), ())
        self._messages = self._source

    def from_row(self, change: Change) -> Event | Rejection | None:
        """Returns the event of an inserted row; None for any other change: an application may delete its rows at once.

        The new row holds `columns`, and may hold others after them.
        """
        if change.op != "c" or change.new is None or change.relation is None:
            return None
        if change.relation is not self._source.relation:
            self._source = self._prepare(change.relation)
        source = self._source
        row = {
            name: load(text)
            for name, text, load in zip(self.columns, change.new, source.loads, strict=False)
            if isinstance(text, str)
        }
        try:
            if change.relation.incomplete:
                _check_complete(dict(zip(self.columns, change.new, strict=False)))
            event = self._from_debezium(row) if self._debezium else _from_own(row)
            name = row.get("id")
            if name is None:
                raise _Invalid("required_missing", "id", "the outbox row has no id")
            message_id = self._make_id(declared_name(KEY, canonical([name])))
            return _event(event, message_id, source.prefix, change)
        except _Invalid as error:
            return _rejection(error, change)

    def from_message(self, change: Change) -> Event | Rejection | None:
        """Returns the event of a logical message with PREFIX; None for other messages, such as the heartbeat."""
        if change.op != "m" or change.prefix != PREFIX:
            return None
        try:
            _check_complete({"": change.content})
            event = load_json(str(change.content))
            if not isinstance(event, dict):
                raise _Invalid("malformed", "", "the logical message is not a JSON object", event)
            message_id = event.get("messageId")
            if message_id is None:
                message_id = self._make_id(default_name(KEY, change))
            elif not isinstance(message_id, str) or not 0 < len(message_id) <= _MAX_ID:
                raise _Invalid("type_mismatch", "messageId", f"must be text of 1 to {_MAX_ID} characters", message_id)
            return _event(event, message_id, self._messages.prefix, change)
        except _Invalid as error:
            return _rejection(error, change)

    def _prepare(self, relation: Relation) -> _Source:
        oids = {column.name: column.type_oid for column in relation.columns}
        loads = tuple(codec(oids.get(name, 0)).load for name in self.columns)
        return _Source(relation, source_prefix(self._database, relation), loads)

    def _from_debezium(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Debezium's layout: `type` names the event, `payload` is its properties, the aggregate goes into `context`."""
        payload = row.get("payload")
        if isinstance(payload, str):
            payload = load_json(payload)
        user = row.get(self._user_column)
        if self._user_key:
            user = payload.get(self._user_key) if isinstance(payload, dict) else None
        aggregate = {"type": row.get("aggregatetype"), "id": _text_of(row.get("aggregateid"))}
        return {
            "type": "track",
            "event": row.get("type"),
            "userId": _text_of(user),
            "properties": {} if payload is None else payload,
            "context": {"aggregate": {key: value for key, value in aggregate.items() if value is not None}},
        }


def _check_complete(cells: Mapping[str, Text]) -> None:
    for name, cell in cells.items():
        if isinstance(cell, Missing):
            raise _Invalid(cell.reason, name, f"{name or 'the message'} is not known: {cell.why}")


def _from_own(row: Mapping[str, Any]) -> dict[str, Any]:
    event = {key: row[column] for column, key in _OWN_COLUMNS.items() if row.get(column) is not None}
    created = event.pop("created_at", None)
    if created is not None:
        event.setdefault("timestamp", created)
    for key in _IDS:
        if key in event:
            event[key] = _text_of(event[key])
    return event


def _text_of(value: object) -> object:
    """Returns an id that is a number or a UUID as text. Any other value stays as it is: it is rejected later."""
    return str(value) if isinstance(value, int | uuid.UUID) and not isinstance(value, bool) else value


def _event(event: Mapping[str, Any], message_id: str, prefix: str, change: Change) -> Event:
    """Returns the event in the Segment spec's shape. Raises _Invalid."""
    kind = event.get("type", "track")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _Invalid("not_in_enum", "type", f"must be one of {', '.join(sorted(_TYPES))}", kind)
    parts = [f'"type":"{kind}"']
    if kind in _NAMED:
        parts.append(f'"{_NAMED[kind]}":{quote(_name(event))}')
    parts.append(f'"messageId":{quote(message_id)}')
    parts += _identity(event, kind)
    body = "traits" if kind in {"identify", "group"} else "properties"
    given = _object(event, body) if event.get(body) is not None else _object(event, "properties")
    if given:
        parts.append(f'"{body}":{_json(given, body)}')
    parts.append(f'"context":{{{_context(event)}"source":{source_block(prefix, change)},"library":{LIBRARY}}}')
    parts.append(f'"timestamp":{_timestamp(event, change)}')
    text = "{" + ",".join(parts) + "}"
    return Event(message_id, kind, text.encode(), KEY, change.position, change.transaction.committed_at)


def _name(event: Mapping[str, Any]) -> str:
    name = event.get("event") or event.get("name")
    if not name:
        raise _Invalid("required_missing", "event", "the event has no name")
    if not isinstance(name, str):
        raise _Invalid("type_mismatch", "event", "must be text", name)
    return name


def _identity(event: Mapping[str, Any], kind: str) -> list[str]:
    needed = {"group": ("groupId",), "alias": ("userId", "previousId")}.get(kind, ())
    for key in needed:
        if not event.get(key):
            raise _Invalid("required_missing", key, f"{kind} needs {key}")
    if not event.get("userId") and not event.get("anonymousId"):
        raise _Invalid("identity_missing", "userId", "needs userId or anonymousId")
    parts = []
    for key in _IDS:
        value = event.get(key)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise _Invalid("type_mismatch", key, "must be text", value)
        parts.append(f'"{key}":{quote(value)}')
    return parts


def _object(event: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = event.get(key)
    if isinstance(found, str):  # a column of type text, or JSON that Python cannot hold
        found = load_json(found)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _Invalid("type_mismatch", key, "must be a JSON object", found)
    return found


def _context(event: Mapping[str, Any]) -> str:
    own = {key: value for key, value in _object(event, "context").items() if key not in _RESERVED_CONTEXT}
    return _json(own, "context")[1:-1] + "," if own else ""


def _json(value: object, key: str) -> str:
    try:
        return canonical(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise _Invalid("type_mismatch", key, "cannot be written as JSON", value) from error


def _timestamp(event: Mapping[str, Any], change: Change) -> str:
    given = event.get("timestamp")
    if given is None:
        return quote(change.transaction.timestamp)
    if isinstance(given, str) and not isinstance(given, Special):
        try:
            given = datetime.fromisoformat(given)
        except ValueError as error:
            raise _Invalid("type_mismatch", "timestamp", "must be an ISO 8601 time", given) from error
    if not isinstance(given, datetime):
        raise _Invalid("special_value", "timestamp", "must be a point in time", given)
    return canonical(aware(given).astimezone(UTC))


def _rejection(error: _Invalid, change: Change) -> Rejection:
    place = (KEY, change.position, change.transaction.committed_at)
    return Rejection(error.reason, *place, field=error.field, value_type=error.value_type, detail=error.detail)
