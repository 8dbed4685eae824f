"""Versions of the rows that one process writes, so that one which has lost its lock cannot."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for table in ("cdc_tracker_source", "cdc_tracker_checkpoint"):
        op.add_column(table, sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")))
