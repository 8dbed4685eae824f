"""Running totals beside the ledger, so that nobody reads all of it; and which process a role is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_OUTCOMES = ("matched", "delivered", "assumed", "rejected", "suppressed", "replayed")


def upgrade() -> None:
    """Takes some seconds for each million rows of the ledger."""
    counts = [*_OUTCOMES, *(f"{outcome}_ever" for outcome in _OUTCOMES)]
    op.create_table(
        "cdc_tracker_total",
        *(sa.Column(name, sa.Text, primary_key=True, nullable=False) for name in ("source", "destination")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
    )
    sums = ", ".join(f"sum({outcome})" for outcome in _OUTCOMES)
    op.execute(
        f"INSERT INTO cdc_tracker_total (source, destination, {', '.join(counts)}) "
        f"SELECT source, destination, {sums}, {sums} FROM cdc_tracker_ledger GROUP BY source, destination"
    )
    op.create_index("cdc_tracker_ledger_hour", "cdc_tracker_ledger", ["source", "hour"])
    op.add_column("cdc_tracker_role", sa.Column("process", sa.Text, nullable=False, server_default=""))
