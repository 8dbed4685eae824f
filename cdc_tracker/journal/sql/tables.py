"""The journal's one table."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER

_MEASURES = ("first_lsn", "first_ordinal", "last_lsn", "last_ordinal", "first_time", "last_time", "frames", "changes", "bytes")

metadata = MetaData()

segments = Table(
    "cdc_tracker_segment",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("source", Text, nullable=False),
    Column("number", BigInteger, nullable=False),  # of this source, without gaps: newest - oldest + 1 counts them
    Column("total", BigInteger, nullable=False),  # bytes of this source up to and with this one: a sum without a scan
    *(Column(name, BigInteger, nullable=False) for name in _MEASURES),
    Column("segment", LargeBinary, nullable=False),  # last, so that reading the others touches no overflow page
    Index("cdc_tracker_segment_number", "source", "number", unique=True),
    Index("cdc_tracker_segment_last", "source", "last_lsn", "last_ordinal", "number"),
    sqlite_autoincrement=True,
)

# The times of each segment. Commits are not quite in the order of their times, and a clock can be set back. `reached`: the latest
# commit up to and with this segment, so that it only grows with `number`. `setback`: the furthest that the earliest commit of any
# segment so far lay below what was reached. By these two a time is found exactly and without a scan.
times = Table(
    "cdc_tracker_segment_time",
    metadata,
    Column("source", Text, primary_key=True),
    Column("reached", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("first_time", BigInteger, nullable=False),
    Column("last_time", BigInteger, nullable=False),
    Column("setback", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
