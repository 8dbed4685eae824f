"""The state store's tables. Times are microseconds since the Unix epoch, positions two columns: LSN and ordinal."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER

metadata = MetaData()


def _text(name: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=False)


def _big(name: str, *, key: bool = False, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, primary_key=key, nullable=nullable, autoincrement=False)


sources = Table(
    "cdc_tracker_source",
    metadata,
    _text("name", key=True),
    _text("system_id"),
    _text("database"),
    _text("slot"),
    _text("plugin"),
    _text("namespace"),
    _big("epoch"),
    _big("created_lsn"),
    _big("confirmed_lsn"),
    _big("timeline"),
    _big("journaled_lsn"),
)

checkpoints = Table(
    "cdc_tracker_checkpoint",
    metadata,
    _text("source", key=True),
    _text("destination", key=True),
    _big("partition", key=True),  # of the journal; the SQL journal has only 0
    _big("lsn"),
    _big("ordinal"),
    _big("high_lsn"),  # the furthest the checkpoint has been: below it events go again
    _big("high_ordinal"),
    _big("rewind_lsn", nullable=True),
    _big("rewind_ordinal", nullable=True),
    _big("updated_at"),
)

OUTCOMES = ("matched", "delivered", "assumed", "rejected", "suppressed", "replayed")

ledger = Table(
    "cdc_tracker_ledger",
    metadata,
    _text("source", key=True),
    _text("destination", key=True),
    _text("mapping", key=True),
    _big("hour", key=True),  # of the commit: hours since the Unix epoch
    *(_big(outcome) for outcome in OUTCOMES),
)

dead_letters = Table(
    "cdc_tracker_dead_letter",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    _text("source"),
    _text("destination"),
    _text("mapping"),
    _big("lsn"),
    _big("ordinal"),
    _text("reason"),
    _text("field"),
    _text("value_type"),
    _text("detail"),
    _text("event_id"),
    _text("state"),
    _big("attempts"),
    Column("counted", Boolean, nullable=False),
    _big("committed_at"),
    _big("created_at"),
    Column("segment", LargeBinary, nullable=False),  # last, so that reading the others touches no overflow page
    Index("cdc_tracker_dead_letter_place", "source", "destination", "mapping", "lsn", "ordinal", unique=True),
    Index("cdc_tracker_dead_letter_queue", "source", "state", "destination", "id", "reason"),  # with reason: to count by it
    Index("cdc_tracker_dead_letter_page", "source", "state", "id"),
    sqlite_autoincrement=True,
)

roles = Table(
    "cdc_tracker_role",
    metadata,
    _text("source", key=True),
    _text("role", key=True),
    _big("pid"),
    _text("host"),
    _text("state"),
    _text("detail"),  # JSON
    _big("updated_at"),
)
