"""Watermarks in the WAL: where the reading of a chunk began and ended, in the commit order of the stream."""

from __future__ import annotations

import json
from typing import Literal

from cdc_tracker.errors import SourceError
from cdc_tracker.model import Lsn, parse_lsn
from cdc_tracker.sources.postgres.connection import Connection, translated
from cdc_tracker.sources.postgres.segments import WATERMARK as PREFIX

WATERMARK = PREFIX.decode()
"""Prefix of the logical messages that are watermarks; their content is `{"job": 7, "mark": "low"}`."""

_WRITE = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, %s, %s) END
"""


@translated()
def write_watermark(connection: Connection, job: int, mark: Literal["low", "high"]) -> Lsn:
    """Writes a watermark, committed on return, and returns an LSN just before it. Raises SourceError on a standby.

    The connection must be in autocommit and outside a transaction. Transactions that others see as committed before the call have
    smaller commit LSNs than the one returned. The watermark's, and that of every transaction that takes its id after the
    watermark's, is equal or greater.
    """
    [(lsn, _)] = connection.execute(_WRITE, [WATERMARK, json.dumps({"job": job, "mark": mark})]).fetchall()
    if lsn is None:
        raise SourceError(
            "the source is a standby, to which the watermarks that order rows among changes cannot be written",
            hint="set source.url to the primary; a replay from the journal needs no watermarks",
        )
    return parse_lsn(lsn)
