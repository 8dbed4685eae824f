"""Jobs, the sent-ledger, and rewinds that send only what is missing."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_id_type = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text(*names: str) -> Sequence[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _big(*names: str, nullable: bool = False) -> Sequence[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=nullable) for name in names]


def _number() -> sa.Column[int]:
    return sa.Column("id", _id_type, primary_key=True, autoincrement=True)


def upgrade() -> None:
    for name in ("only_missing", "rewind_only_missing"):
        op.add_column("cdc_tracker_checkpoint", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "cdc_tracker_job",
        _number(),
        *_text("source", "destination", "kind", "state", "spec", "progress", "counts"),
        *_big("needs_lsn", "needs_ordinal", nullable=True),
        *_text("trouble"),
        *_big("created_at", "started_at", "finished_at", "updated_at", "digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("cdc_tracker_job_queue", "cdc_tracker_job", ["source", "destination", "state", "id"])
    op.create_table(
        "cdc_tracker_job_segment",
        sa.Column("job_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("segment", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "cdc_tracker_sent_week",
        _number(),
        *_text("source", "destination"),
        *_big("week", "ids"),
        *_big("since", nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("cdc_tracker_sent_week_place", "cdc_tracker_sent_week", ["source", "destination", "week"], unique=True)
    op.create_table(
        "cdc_tracker_sent",
        sa.Column("place", _id_type, primary_key=True, autoincrement=False),
        sa.Column("ids", sa.LargeBinary, nullable=False),
    )
