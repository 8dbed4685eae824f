"""Since when each mapping is in force at each destination, so that one which has never matched can be told."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Every mapping that the ledger knows has matched: it counts from its first hour."""
    op.create_table(
        "cdc_tracker_mapping",
        *(sa.Column(name, sa.Text, primary_key=True, nullable=False) for name in ("source", "destination", "mapping")),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("loaded_at", "after_lsn", "after_ordinal", "matched_before")
        ),
    )
    op.execute(
        "INSERT INTO cdc_tracker_mapping (source, destination, mapping, loaded_at, after_lsn, after_ordinal, matched_before) "
        "SELECT source, destination, mapping, min(hour) * 3600000000, 0, -1, 0 FROM cdc_tracker_ledger "
        "GROUP BY source, destination, mapping"
    )
