"""A table's present rows, read in chunks by key, as segments of the plugin `snapshot`: see reader.py."""

from cdc_tracker.sources.postgres.snapshot.conditions import Condition, since
from cdc_tracker.sources.postgres.snapshot.key import extent, usable_key
from cdc_tracker.sources.postgres.snapshot.reader import Chunk, TableReader
from cdc_tracker.sources.postgres.snapshot.rows import Decoder, excerpt
from cdc_tracker.sources.postgres.snapshot.watermarks import WATERMARK, write_watermark

__all__ = [
    "WATERMARK",
    "Chunk",
    "Condition",
    "Decoder",
    "TableReader",
    "excerpt",
    "extent",
    "since",
    "usable_key",
    "write_watermark",
]
