"""A replication slot that is as setup made it."""

from cdc_tracker.sources.postgres.slot import SlotState

SLOT = SlotState(
    name="cdc_tracker",
    plugin="pgoutput",
    database="shop",
    temporary=False,
    reader=None,
    confirmed_flush_lsn=5000,
    wal_status="reserved",
    safe_wal_size=None,
    retained_bytes=2000,
    invalidation_reason="",
    two_phase=False,
    failover=False,
)
