"""What a delivery has in hand, so that it goes on with the same after a crash; and events that a destination had already."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "cdc_tracker_in_hand",
        *(sa.Column(name, sa.Text, primary_key=True, nullable=False) for name in ("source", "destination")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("mappings", "letters")),
    )
    op.add_column("cdc_tracker_ledger", sa.Column("repeated", sa.BigInteger, nullable=False, server_default="0"))
    for name in ("repeated", "repeated_ever"):
        op.add_column("cdc_tracker_total", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
