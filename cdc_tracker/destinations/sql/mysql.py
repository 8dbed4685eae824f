"""MySQL (8.0.17 and newer) and MariaDB (10.2 and newer), through PyMySQL, with InnoDB tables.

Tested against MariaDB 10.11, not against MySQL itself.

- Each session uses strict SQL mode: a value that does not fit raises an error, and the event is rejected; the value is not cut.
  INSERT IGNORE would turn such errors into warnings. So ON DUPLICATE KEY UPDATE leaves out a message id that exists, and fails
  on any other unique key, which someone may have added.
- Text is compared byte by byte and without padding: `a` and `a ` are two ids.
- JSON is stored as LONGTEXT: MySQL's JSON type turns numbers into doubles, and both servers refuse deep nesting in JSON.
- Times are stored as DATETIME(6) in UTC: TIMESTAMP ends in 2038.
- CREATE and ALTER commit. So a batch creates its tables and columns before its first row, and the next worker uses a table or
  column that a killed one left behind.
- The server's settings decide whether a commit survives its crash (`innodb_flush_log_at_trx_commit`). The position is in the same
  database, so the lost events are sent again, as far as the journal reaches back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC
from decimal import Context, Decimal
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from cdc_tracker.destinations.sql.database import Database, Row
from cdc_tracker.errors import BatchRejected, CdcTrackerError, ConfigError, DestinationBlocked, DestinationUnavailable, TooLarge
from cdc_tracker.model import canonical
from cdc_tracker.times import parse_iso

_CONNECT = {"connect_timeout": 10, "read_timeout": 120, "write_timeout": 30, "charset": "utf8mb4"}
_SESSION = """
    SET SESSION time_zone = '+00:00', lock_wait_timeout = 10, innodb_lock_wait_timeout = 10,
    sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION'"""
_COLUMNS = text("""
    SELECT column_name, column_type FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = :table ORDER BY ordinal_position""")
_LOCK = "cdc_tracker.destinations.sql"
_PLAIN_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
_WHOLE_DIGITS, _FRACTION_DIGITS = 35, 30
_ALL_DIGITS = Context(prec=10**6, Emax=10**9, Emin=-(10**9))

_VALUE = {1048, 1062, 1264, 1265, 1292, 1300, 1366, 1367, 1406, 1411, 1452, 1644, 3140, 3819, 4025}  # caused by an event's values
_NO_LOGIN = {1044, 1045, 1130, 1251, 1698, 1820, 1862, 2058, 2059, 2061, 3118}
_NO_PRIVILEGE = {1142, 1143, 1227}
_READ_ONLY = {1290, 1792, 1836}
_TABLES = {1050, 1054, 1060, 1064, 1117, 1118, 1364}
_NO_TABLE = 1146
_FULL = {1021, 1114}
_PACKET = 1153
_QUOTED = re.compile(r"'.*'(?= for )", re.DOTALL)  # a value, in the messages about values


class MySql(Database):
    """MySQL or MariaDB, whichever answers."""

    key_type = "varchar(255)"
    time_type = "datetime(6)"
    json_type = "longtext"
    typed: ClassVar[Mapping[str, str]] = {
        "text": "longtext",
        "number": f"decimal({_WHOLE_DIGITS + _FRACTION_DIGITS},{_FRACTION_DIGITS})",
        "boolean": "tinyint(1)",
        "time": "datetime(6)",
    }
    now = "CURRENT_TIMESTAMP(6)"
    own_columns = frozenset({"db_row_id", "db_trx_id", "db_roll_ptr", "fts_doc_id"})  # InnoDB's
    most_columns = 180  # a row must fit half a page of 16 KB, with 40 bytes of each text

    def __init__(self, url: URL) -> None:
        self._packet = 0  # bytes of the longest statement that the server takes
        super().__init__(url.set(drivername="mysql+pymysql"))

    def connect(self, url: URL) -> Engine:
        given = {name: value for name, value in _CONNECT.items() if name not in url.query}
        try:
            # The server ends connections that were idle for long: it is tested before it is used again.
            engine = create_engine(url, connect_args=given, pool_size=1, max_overflow=0, pool_pre_ping=True, hide_parameters=True)
        except ModuleNotFoundError as error:
            raise ConfigError("MySQL needs PyMySQL", hint="pip install 'cdc-tracker[mysql]'") from error

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(_SESSION)
                cursor.execute("SELECT @@max_allowed_packet, VERSION()")
                packet, version = cursor.fetchone()
            self._packet = int(packet)
            collation = "utf8mb4_nopad_bin" if "MariaDB" in version else "utf8mb4_0900_bin"
            self.table_options = f"ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {collation}"

        return engine

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def identifier(self, name: str) -> str:
        """Folds case, because columns whose names differ in case only are the same, and drops characters above U+FFFF."""
        folded = (low if len(low := char.upper().lower()) == 1 else char for char in name)
        return "".join(char for char in folded if char <= "\uffff")

    def columns(self, connection: Connection, table: str) -> dict[str, str]:
        return {str(name): _decoded(kind).lower() for name, kind in connection.execute(_COLUMNS, {"table": table})}

    @contextmanager
    def tables_locked(self, connection: Connection) -> Iterator[None]:
        """Takes a lock of the session: CREATE would end those of the transaction."""
        if connection.execute(text("SELECT GET_LOCK(:name, 10)"), {"name": _LOCK}).scalar() != 1:
            raise DestinationUnavailable(f"{self}: another session has been creating tables for 10 seconds")
        try:
            yield
        finally:
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK})

    def may_write(self, connection: Connection, table: str, columns: Mapping[str, str]) -> bool:
        """Tries statements that change nothing: grants may come from roles, wildcards and levels."""
        name, first = self.qualified(table), self.quoted(next(iter(columns)))
        trials = f"INSERT INTO {name} SELECT * FROM {name} WHERE 1 = 0", f"UPDATE {name} SET {first} = {first} WHERE 1 = 0"
        return all(self._may(connection, trial) for trial in trials)

    def may_create(self, connection: Connection, table: str) -> bool:
        return self._may(connection, f"CREATE TABLE {self.qualified(table)} LIKE cdc_tracker_is_not_there")

    def _may(self, connection: Connection, trial: str) -> bool:
        try:
            connection.execute(text(trial))
        except DBAPIError as error:
            if _code(error.orig) not in _NO_PRIVILEGE | {_NO_TABLE}:
                raise
            return _code(error.orig) == _NO_TABLE  # so it failed only because that table does not exist
        return True

    def time(self, value: str | None) -> object:
        if value is None:
            return None
        if _PLAIN_TIME.fullmatch(value):
            return f"{value[:10]} {value[11:-1]}"
        try:
            moment = parse_iso(value)
            return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
        except (ValueError, OverflowError):
            raise BatchRejected(f"{self}: the event's timestamp does not fit a DATETIME") from None

    def bind(self, kind: str, value: Any) -> object:
        if kind == "boolean":
            return int(value)
        if kind == "time":
            with suppress(BatchRejected):
                return self.time(value)
            return None
        if kind == "number":
            return value if _exact(value) else None
        return value if isinstance(value, str) else canonical(value)

    def insert(self, connection: Connection, table: str, kinds: Mapping[str, str], rows: Sequence[Row], key: str) -> int | None:
        if any(self._too_long(row) for row in rows):
            raise TooLarge(f"{self}: an event is above the server's max_allowed_packet of {self._packet} bytes")
        count = super().insert(connection, table, kinds, rows, key)
        return None if rows else count  # the driver's count includes repeated ids

    def unless_exists(self, key: str) -> str:
        """Leaves out repeated ids only: for a conflict with another key the value is NULL, which the column rejects."""
        return f"ON DUPLICATE KEY UPDATE {key} = IF({key} = VALUES({key}), {key}, NULL)"

    def replacing(self, key: str, others: Sequence[str]) -> str:
        return f"ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in others)}"

    def _too_long(self, row: Row) -> bool:
        """Whether its statement may exceed max_allowed_packet. The server would close the connection each time."""
        texts = [value for value in row.values() if isinstance(value, str)]
        if sum(map(len, texts)) * 8 < self._packet:
            return False
        size = sum(len(value.encode()) + sum(value.count(char) for char in "'\"\\\n\r\0\x1a") for value in texts)
        return size + 4096 > self._packet

    def fault(self, cause: BaseException) -> CdcTrackerError:
        code, message = _code(cause), str(cause.args[1] if len(cause.args) > 1 else cause)
        if code in _VALUE:
            return BatchRejected(self.said(_QUOTED.sub("…", message)))
        said = self.said(message)
        if code == _PACKET:
            return TooLarge(said)
        for codes, hint in _REFUSED:
            if code in codes:
                return DestinationBlocked(said, hint=hint)
        hint = "it is made again" if code == _NO_TABLE else ""
        hint = "free some space there: nothing is lost, and delivery continues by itself" if code in _FULL else hint
        return DestinationUnavailable(said, hint=hint)


_REFUSED = (
    (_NO_LOGIN, "correct the credentials in `url`, or the accounts of the server"),
    ({1049}, "correct the database's name in `url`, or create it"),
    (_NO_PRIVILEGE, "grant the user of `url` CREATE, ALTER, SELECT, INSERT and UPDATE on the database"),
    (_READ_ONLY, "the server is a replica or set read-only: point `url` at the primary"),
    (_TABLES, "the tables are not as cdc-tracker makes them: drop or rename those in the way, or set another `table`"),
)


def _code(cause: BaseException | None) -> int:
    first = cause.args[0] if cause is not None and cause.args else 0
    return first if isinstance(first, int) else 0


def _decoded(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _exact(value: int | Decimal) -> bool:
    """Whether the decimal column stores it without rounding."""
    if isinstance(value, Decimal) and abs(value.adjusted()) > _WHOLE_DIGITS:
        return False
    _, digits, exponent = Decimal(value).normalize(_ALL_DIGITS).as_tuple()
    if not isinstance(exponent, int):
        return False
    return max(0, -exponent) <= _FRACTION_DIGITS and len(digits) + exponent <= _WHOLE_DIGITS
