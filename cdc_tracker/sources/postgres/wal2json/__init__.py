"""wal2json's format version 2: frames → segments for capture, segments → Changes for delivery. Pure.

A cell's text is restored from JSON, so that both plugins give equal Changes. wal2json writes null for NaN and infinity, names the
leaf of a partitioned table, and does not say which columns are the key: `describe` asks the catalog, and the answer is stored in
the segment.
"""

from cdc_tracker.sources.postgres.wal2json.builder import Builder, options
from cdc_tracker.sources.postgres.wal2json.decoder import Decoder, excerpt, left_off
from cdc_tracker.sources.postgres.wal2json.frames import Description

__all__ = ["Builder", "Decoder", "Description", "excerpt", "left_off", "options"]
