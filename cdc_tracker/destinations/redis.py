"""Events as entries of Redis streams, each exactly once.

A batch is one call of a script, which Redis runs atomically: it adds the events and stores the position, or does nothing. Redis
does not undo a script that fails halfway. So the script first checks that every key is a stream or does not exist. Full memory, a
read-only replica and a disk that cannot be written stop it at its first write.

The state is a hash with fields for each cursor. The name of the last batch is stored with the position, as `token`. The script
gets the token that the batch follows and its own, and compares them with the stored one:

- its own token: the answer was lost, and the events are not added again;
- the token that it follows: the events are added;
- the token of another process: a second worker is running, and this one stops;
- an older token of this process, or none: Redis was restored or emptied, or has lost its last seconds. Nothing is added;
  raises CheckpointMoved, and the core compares the stored position with its own.

A replica applies the effects of a script as a whole, too, so position and events agree after a failover. The server's settings
decide how much its crash loses: nothing with `appendonly yes` and `appendfsync always`; `wait_replicas` waits for copies.
Redis Cluster is not supported: all keys of a script would have to be in one slot.

Sources: the documentation of Redis on XADD, EVAL, transactions, persistence, replication and WAIT; that of redis-py. Tested
against Redis 7.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import redis
from pydantic import AfterValidator, Field, SecretStr

from cdc_tracker.destinations.base import Cursor, DestinationSettings, Limits
from cdc_tracker.destinations.support.exactly_once import NamedBatches, Stored
from cdc_tracker.destinations.support.formats import FormatSettings
from cdc_tracker.destinations.support.name_templates import NameTemplate, check_template
from cdc_tracker.destinations.support.urls import of_scheme, passwords, said
from cdc_tracker.errors import (
    AlreadyRunning,
    CdcTrackerError,
    CheckpointMoved,
    ConfigError,
    DestinationBlocked,
    DestinationUnavailable,
    TooLarge,
)
from cdc_tracker.model import Batch, Position
from cdc_tracker.units import Duration

# Replaces the token, so that the next batch of another writer is refused. KEYS: the state. ARGV: prefix of its fields, new token.
_TAKE_OVER = """
local ours = ARGV[1]
redis.call('HSET', KEYS[1], ours .. 'token', ARGV[2])
return redis.call('HMGET', KEYS[1], ours .. 'commit_lsn', ours .. 'ordinal', ours .. 'aside')
"""
# Moves the position from the fields without a prefix, which an earlier version wrote. ARGV as above, and the old token.
_INHERIT = """
local state, ours = KEYS[1], ARGV[1]
local old = redis.call('HMGET', state, 'token', 'commit_lsn', 'ordinal', 'aside')
if redis.call('HGET', state, ours .. 'token') ~= ARGV[2] or old[1] ~= ARGV[3] then return 'OTHER' end
redis.call('HSET', state, ours .. 'commit_lsn', old[2], ours .. 'ordinal', old[3], ours .. 'aside', old[4] or '')
redis.call('HSET', state, 'token', ARGV[2], 'commit_lsn', '', 'ordinal', '', 'aside', '')
return 'TAKEN'
"""
# KEYS: the state, then the streams. ARGV: the token to follow, the new one, the fields of the state, maxlen (0: none), the
# prefix of the fields, then for each event: number of its stream, message id, type, JSON.
_SCRIPT = """
local state, ours = KEYS[1], ARGV[7]
local token = redis.call('HGET', state, ours .. 'token') or ''
if token == ARGV[2] then return 'TAKEN' end
if token ~= ARGV[1] then return 'OTHER ' .. token end
for i = 2, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'stream' then return 'KIND ' .. kind .. ' ' .. KEYS[i] end
end
redis.call('HSET', state, ours .. 'token', ARGV[2], ours .. 'commit_lsn', ARGV[3], ours .. 'ordinal', ARGV[4])
redis.call('HSET', state, ours .. 'aside', ARGV[5])
local most = ARGV[6]
for i = 8, #ARGV, 4 do
  local stream = KEYS[tonumber(ARGV[i])]
  if most == '0' then
    redis.call('XADD', stream, '*', 'message-id', ARGV[i + 1], 'type', ARGV[i + 2], 'event', ARGV[i + 3])
  else
    redis.call('XADD', stream, 'MAXLEN', '~', most, '*', 'message-id', ARGV[i + 1], 'type', ARGV[i + 2], 'event', ARGV[i + 3])
  end
end
return 'ADDED'
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_BLOCKED = {
    "NOPERM": "allow its user EVAL, EVALSHA, SCRIPT, HSET, HGET, HMGET, XADD, TYPE on these keys",
    "NOAUTH": "put the password into `url`: redis://:PASSWORD@HOST",
    "WRONGPASS": "correct user and password in `url`",
    "READONLY": "this is a replica: point `url` at the primary",
    "CROSSSLOT": "a Redis Cluster is not supported: point `url` at one Redis",
    "MOVED": "a Redis Cluster is not supported: point `url` at one Redis",
}
_TEMPORARY = {
    "OOM": "free memory, raise maxmemory, or set `maxlen`: nothing is lost, and delivery continues by itself",
    "MISCONF": "Redis cannot write its snapshot to disk: free space there, and delivery continues by itself",
}


class RedisSettings(FormatSettings):
    template: ClassVar[str] = "stream"

    type: Literal["redis"] = "redis"
    in_flight: int = Field(default=1, ge=1, le=1, description="always 1: the position moves in order")
    url: Annotated[SecretStr, of_scheme("redis", "rediss", "unix")] = Field(
        description="redis://[USER:PASSWORD@]HOST:PORT/DB, rediss:// for TLS, or unix://PATH"
    )
    stream: Annotated[str, AfterValidator(check_template)] = Field(
        description="a key; {event}, {type}, {schema} and {table} stand for the event's own"
    )
    state_key: str | None = Field(default=None, min_length=1, description="the key of our position; default cdc-tracker:NAME")
    maxlen: int | None = Field(default=None, ge=1, description="about how many entries a stream keeps; older ones are removed")
    wait_replicas: int = Field(default=0, ge=0, le=100, description="a batch counts once so many replicas have it")
    timeout: Duration = Field(default=30.0, gt=0, description="for connecting, for an answer, and for the replicas")


class RedisDestination(NamedBatches):
    """Connects when first needed."""

    Settings: ClassVar[type[DestinationSettings]] = RedisSettings
    duplicate_handling: ClassVar[str] = "appends it again: after a rewind the streams hold the same message-id more than once"

    def __init__(self, name: str, settings: RedisSettings, base: Path) -> None:
        super().__init__()
        # Redis serves nobody else while the script runs, which takes some milliseconds for a batch of 2,000.
        self.limits = Limits(2_000, batch_bytes=4 * 1024**2, event_bytes=64 * 1024**2, whole_changes=True)
        self._settings = settings
        self._names = NameTemplate(settings.stream)
        self._key = settings.state_key or f"cdc-tracker:{name}"
        self._fields = ""  # prefix of the cursor's fields
        self._stored: Stored | None = None
        self._redis = self._client()

    def bind(self, cursor: Cursor, owns: Callable[[Position], bool]) -> None:
        self._fields, self._owns = f"{cursor.key}:", owns

    def probe(self) -> None:
        with self._translated():
            self._redis.ping()
            kind = self._redis.type(self._key)
            if kind not in (b"none", b"hash"):
                raise DestinationBlocked(f"{self}: the key {self._key} is a {kind.decode()}", hint="set another `state_key`")

    def close(self) -> None:
        self._redis.close()
        self._redis.connection_pool.disconnect()
        self._stored = None

    def __str__(self) -> str:
        parts = urlsplit(self._settings.url.get_secret_value())
        return f"Redis at {parts.hostname}:{parts.port or 6379}" if parts.scheme != "unix" else f"Redis at {parts.path}"

    def _client(self) -> Any:  # redis-py types its answers for asyncio, too
        timeout = self._settings.timeout
        options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "client_name": "cdc-tracker"}
        try:
            return redis.Redis.from_url(self._settings.url.get_secret_value(), **options)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"redis: `url` is not one: {type(error).__name__}") from None

    def _ready(self) -> Stored:
        """Returns the state in Redis. The first time, shuts out the process that wrote before."""
        if self._stored is not None:
            return self._stored
        with self._translated():
            token = self._next_name()
            found = self._redis.eval(_TAKE_OVER, 1, self._key, self._fields, token)
            if self._fields and not found[0]:
                found = self._inherited(token) or found
        self._stored = Stored(_position(*found[:2]), (found[2] or b"").decode(), token)
        return self._stored

    def _inherited(self, token: str) -> list[bytes] | None:
        """Takes over the state that an earlier version stored without a cursor. Returns None if it is not this source's."""
        before, *found = self._redis.hmget(self._key, "token", "commit_lsn", "ordinal", "aside")
        position = _position(*found[:2])
        if position is None or not self._owns(position):
            return None
        if self._redis.eval(_INHERIT, 1, self._key, self._fields, token, before) != b"TAKEN":
            raise CheckpointMoved(f"{self}: another worker was quicker to take over the position in {self._key}")
        return list(found)

    def _write(self, batch: Batch, before: Stored, after: Stored) -> None:
        keys = [self._key]
        fields: list[Any] = []
        numbers: dict[str, int] = {}
        for event in batch.events:
            stream = self._names.name(event)
            number = numbers.get(stream)
            if number is None:
                keys.append(stream)
                number = numbers[stream] = len(keys)
            fields += [number, event.message_id, event.type, event.body]
        with self._translated():
            self._check(self._call(keys, before.batch, after, fields))
            if self._settings.wait_replicas:
                self._wait()
        self._stored = after

    def _call(self, keys: list[str], follows: str, stored: Stored, fields: list[Any]) -> str:
        lsn, ordinal = stored.position if stored.position is not None else ("", "")
        arguments = [
            *keys,
            follows,
            stored.batch,
            lsn,
            ordinal,
            stored.out_of_band,
            self._settings.maxlen or 0,
            self._fields,
            *fields,
        ]
        try:
            answer = self._redis.evalsha(_SHA, len(keys), *arguments)
        except redis.exceptions.NoScriptError:
            answer = self._redis.eval(_SCRIPT, len(keys), *arguments)
        return bytes(answer).decode()

    def _check(self, answer: str) -> None:
        """Raises the error that the script's answer means; returns if the batch is stored."""
        answer, _, rest = answer.partition(" ")
        if answer == "KIND":
            kind, _, key = rest.partition(" ")
            raise DestinationBlocked(
                f"{self}: the key {key} is a {kind}, not a stream", hint="rename it, or set another `stream`"
            )
        if answer == "OTHER" and rest.partition("-")[0] not in ("", self._owner):
            raise AlreadyRunning(
                f"{self}: another worker writes here, under the same key {self._key}",
                hint="stop it, or set `state_key`: two destinations must not share one. Nothing was written twice",
            )
        if answer == "OTHER":
            self._stored = None
            raise CheckpointMoved(
                f"{self}: the last batch is missing there: it was restored or emptied, or crashed without `appendfsync always`",
                hint="nothing was added: the role compares positions, and sends the missing events again",
            )

    def _wait(self) -> None:
        wanted = self._settings.wait_replicas
        have = self._redis.wait(wanted, int(self._settings.timeout * 900))  # before the socket's own timeout
        if have < wanted:
            raise DestinationUnavailable(f"{self}: {have} of {wanted} replicas have the batch")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except redis.exceptions.RedisError as error:
            raise self._translate(error) from None

    def _translate(self, error: redis.exceptions.RedisError) -> CdcTrackerError:
        text = f"{self}: {said(error, passwords(self._settings.url.get_secret_value()))}"
        if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
            return DestinationBlocked(text, hint=_BLOCKED["WRONGPASS"])
        for code, hint in (_BLOCKED | _TEMPORARY).items():
            if any(sign in text or sign == type(error).__name__ for sign in (code, *_SIGNS.get(code, ()))):
                return DestinationBlocked(text, hint=hint) if code in _BLOCKED else DestinationUnavailable(text, hint=hint)
        if "invalid bulk length" in text or "query buffer" in text:
            return TooLarge(text)
        return DestinationUnavailable(text)


# redis-py removes the code from the text of errors that it has classes for
_SIGNS = {
    "NOPERM": ("NoPermissionError", "user executing the script can't"),
    "READONLY": ("ReadOnlyError",),
    "OOM": ("OutOfMemoryError",),
    "CROSSSLOT": ("ClusterCrossSlotError",),
    "MOVED": ("MovedError",),
}


def _position(lsn: bytes | None, ordinal: bytes | None) -> Position | None:
    return Position(int(lsn), int(ordinal)) if lsn and ordinal else None
