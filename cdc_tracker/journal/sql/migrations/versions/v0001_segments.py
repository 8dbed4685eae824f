"""Segments."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    big = sa.BigInteger()
    op.create_table(
        "cdc_tracker_segment",
        sa.Column("id", big.with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("source", sa.Text, nullable=False),
        *(
            sa.Column(name, big, nullable=False)
            for name in (
                *("number", "total", "first_lsn", "first_ordinal", "last_lsn", "last_ordinal"),
                *("first_time", "last_time", "frames", "changes", "bytes"),
            )
        ),
        sa.Column("segment", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("cdc_tracker_segment_number", "cdc_tracker_segment", ["source", "number"], unique=True)
    op.create_index(
        "cdc_tracker_segment_last", "cdc_tracker_segment", ["source", "last_lsn", "last_ordinal", "number", "last_time"]
    )
    if op.get_bind().dialect.name == "postgresql":
        # Segments are compressed already: stored out of line as they are, no second compression tried.
        op.execute("ALTER TABLE cdc_tracker_segment ALTER COLUMN segment SET STORAGE EXTERNAL")
