"""The state store's tables. Times are microseconds since the Unix epoch, positions two columns: LSN and ordinal."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text, false, text

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER

metadata = MetaData()


def _text(name: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=False)


def _texts(*names: str, key: bool = False) -> list[Column[str]]:
    return [_text(name, key=key) for name in names]


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=false())


def _big(name: str, *, key: bool = False, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, primary_key=key, nullable=nullable, autoincrement=False)


def _bigs(*names: str) -> list[Column[int]]:
    return [_big(name) for name in names]


def _version() -> Column[int]:
    """Columns of a row that one process writes: see transactions.py."""
    return Column("version", BigInteger, nullable=False, server_default=text("0"))


sources = Table(
    "cdc_tracker_source",
    metadata,
    _text("name", key=True),
    *_texts("system_id", "database", "slot", "plugin", "namespace"),
    *_bigs("epoch", "created_lsn", "confirmed_lsn", "timeline", "journaled_lsn"),
    _version(),
)

checkpoints = Table(
    "cdc_tracker_checkpoint",
    metadata,
    *_texts("source", "destination", key=True),
    _big("partition", key=True),  # of the journal; the SQL journal has only 0
    *_bigs("lsn", "ordinal"),
    *_bigs("high_lsn", "high_ordinal"),  # the furthest the checkpoint has been: events below it are sent again
    _big("rewind_lsn", nullable=True),
    _big("rewind_ordinal", nullable=True),
    _big("updated_at"),
    _flag("only_missing"),  # in force now
    _flag("rewind_only_missing"),  # comes into force with the pending rewind
    _version(),
)

OUTCOMES = ("matched", "delivered", "assumed", "rejected", "suppressed", "replayed", "repeated")

ledger = Table(
    "cdc_tracker_ledger",
    metadata,
    *_texts("source", "destination", "mapping", key=True),
    _big("hour", key=True),  # of the commit: hours since the Unix epoch
    *_bigs(*OUTCOMES),
    Index("cdc_tracker_ledger_hour", "source", "hour"),
)

totals = Table(  # of the ledger, updated with it: probes must not read a year of hours every few seconds
    "cdc_tracker_total",
    metadata,
    *_texts("source", "destination", key=True),
    *_bigs(*OUTCOMES),  # the ledger's sums: a retried dead letter leaves `rejected`
    *_bigs(*(f"{outcome}_ever" for outcome in OUTCOMES)),  # how often each has happened: only grows
)

mappings = Table(  # in force at each destination
    "cdc_tracker_mapping",
    metadata,
    _text("source", key=True),
    _text("destination", key=True),
    _text("mapping", key=True),
    _big("loaded_at"),  # when it was first loaded
    _big("after_lsn"),  # changes up to this position were dealt with before
    _big("after_ordinal"),
    _big("matched_before"),  # how many the ledger had then, of an earlier mapping with this key
)

in_hand = Table(  # what each delivery is about to send
    "cdc_tracker_in_hand",
    metadata,
    *_texts("source", "destination", key=True),
    _text("mappings"),  # JSON: the texts of the mapping files with which events were last sent
    _text("letters"),  # JSON: ids of the dead letters that are being sent again in one call
)

dead_letters = Table(
    "cdc_tracker_dead_letter",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    *_texts("source", "destination", "mapping"),
    *_bigs("lsn", "ordinal"),
    *_texts("reason", "field", "value_type", "detail", "event_id", "state"),
    _big("attempts"),
    Column("counted", Boolean, nullable=False),
    *_bigs("committed_at", "created_at"),
    Column("segment", LargeBinary, nullable=False),  # last, so that reading the others touches no overflow page
    Index("cdc_tracker_dead_letter_place", "source", "destination", "mapping", "lsn", "ordinal", unique=True),
    Index("cdc_tracker_dead_letter_queue", "source", "state", "destination", "id", "reason"),  # with reason: to count by it
    Index("cdc_tracker_dead_letter_page", "source", "state", "id"),
    sqlite_autoincrement=True,
)

roles = Table(
    "cdc_tracker_role",
    metadata,
    *_texts("source", "role", key=True),
    _big("pid"),
    *_texts("host", "state", "detail"),  # detail: JSON
    _big("updated_at"),
    Column("process", Text, nullable=False, server_default=""),  # process_identity.identity()
)

jobs = Table(
    "cdc_tracker_job",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    *_texts("source", "destination", "kind", "state"),
    *_texts("spec", "progress", "counts"),  # JSON
    _big("needs_lsn", nullable=True),
    _big("needs_ordinal", nullable=True),
    _text("trouble"),
    *_bigs("created_at", "started_at", "finished_at", "updated_at"),
    _big("digest"),  # of its segment, 0 if there is none: the segment is written only if this has changed
    Index("cdc_tracker_job_queue", "source", "destination", "state", "id"),
    sqlite_autoincrement=True,
)

job_segments = Table(
    "cdc_tracker_job_segment",  # separate: progress is stored many times for one segment
    metadata,
    _big("job_id", key=True),
    Column("segment", LargeBinary, nullable=False),
)

sent_weeks = Table(
    "cdc_tracker_sent_week",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    *_texts("source", "destination"),
    _big("week"),  # in which they were sent: weeks since the Unix epoch
    _big("ids"),  # how many
    _big("since", nullable=True),  # when the first was stored; NULL once their removal has begun
    Index("cdc_tracker_sent_week_place", "source", "destination", "week", unique=True),
    sqlite_autoincrement=True,
)

sent = Table(  # ids in blocks: see sent_ids.py
    "cdc_tracker_sent",
    metadata,
    Column("place", BigId, primary_key=True, autoincrement=False),
    Column("ids", LargeBinary, nullable=False),
)
