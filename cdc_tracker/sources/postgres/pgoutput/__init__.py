"""pgoutput's protocol version 1: frames → segments for capture, segments → Changes for delivery. Pure.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

from cdc_tracker.sources.postgres.pgoutput.builder import Builder, options
from cdc_tracker.sources.postgres.pgoutput.decoder import Decoder, excerpt, left_off
from cdc_tracker.sources.postgres.pgoutput.messages import BEGIN, POSTGRES_EPOCH, parse_relation

__all__ = ["BEGIN", "POSTGRES_EPOCH", "Builder", "Decoder", "excerpt", "left_off", "options", "parse_relation"]
