"""Marks in the WAL: where a chunk's reading began and ended, in the order of commits that the stream goes by."""

from __future__ import annotations

import json
from typing import Any, Literal

import psycopg

from cdc_tracker.errors import SourceError
from cdc_tracker.model import Lsn, parse_lsn
from cdc_tracker.sources.postgres.connection import translated
from cdc_tracker.sources.postgres.segments import WATERMARK as PREFIX

WATERMARK = PREFIX.decode()
"""Prefix of the logical messages that are marks; their content is `{"job": 7, "mark": "low"}`."""

_EMIT = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, %s, %s) END
"""


@translated()
def emit(connection: psycopg.Connection[Any], job: int, mark: Literal["low", "high"]) -> Lsn:
    """Write a mark, committed on return. The connection is in autocommit and in no transaction.

    The LSN given lies just before the mark. What others see as committed before the call has a smaller commit LSN; that of the
    mark, and of every transaction that takes its id after the mark's, is equal or greater. Raises SourceError on a standby.
    """
    [(lsn, _)] = connection.execute(_EMIT, [WATERMARK, json.dumps({"job": job, "mark": mark})]).fetchall()
    if lsn is None:
        raise SourceError(
            "the source is a standby: it cannot write the marks that tell which is newer, a row or the stream",
            hint="give the primary in source.url; a replay from the journal needs none",
        )
    return parse_lsn(lsn)
