"""wal2json's format version 2: frames → segments for capture, segments → Changes for delivery. Pure.

A cell's text is made back from JSON, so that both plugins give equal Changes. wal2json cannot carry float NaN and infinity: they
are null. It names the leaf of a partitioned table and no key: the catalog's word for each table comes by `describe` and goes into
the segment.
"""

from cdc_tracker.sources.postgres.wal2json.builder import Builder, Describe, options
from cdc_tracker.sources.postgres.wal2json.decoder import Decoder, excerpt, left_off
from cdc_tracker.sources.postgres.wal2json.frames import Description

__all__ = ["Builder", "Decoder", "Describe", "Description", "excerpt", "left_off", "options"]
