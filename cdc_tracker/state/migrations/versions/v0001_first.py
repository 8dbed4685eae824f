"""Sources, checkpoints, ledger, dead letters, roles."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(*names: str, key: bool = False) -> Sequence[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=key, nullable=False) for name in names]


def _big(*names: str, key: bool = False, nullable: bool = False) -> Sequence[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, primary_key=key, nullable=nullable, autoincrement=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "cdc_tracker_source",
        *_text("name", key=True),
        *_text("system_id", "database", "slot", "plugin", "namespace"),
        *_big("epoch", "created_lsn", "confirmed_lsn", "timeline", "journaled_lsn"),
    )
    op.create_table(
        "cdc_tracker_checkpoint",
        *_text("source", "destination", key=True),
        *_big("partition", key=True),
        *_big("lsn", "ordinal", "high_lsn", "high_ordinal"),
        *_big("rewind_lsn", "rewind_ordinal", nullable=True),
        *_big("updated_at"),
    )
    op.create_table(
        "cdc_tracker_ledger",
        *_text("source", "destination", "mapping", key=True),
        *_big("hour", key=True),
        *_big("matched", "delivered", "assumed", "rejected", "suppressed", "replayed"),
    )
    op.create_table(
        "cdc_tracker_role",
        *_text("source", "role", key=True),
        *_big("pid"),
        *_text("host", "state", "detail"),
        *_big("updated_at"),
    )
    _dead_letters()


def _dead_letters() -> None:
    name = "cdc_tracker_dead_letter"
    op.create_table(
        name,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *_text("source", "destination", "mapping"),
        *_big("lsn", "ordinal"),
        *_text("reason", "field", "value_type", "detail", "event_id", "state"),
        *_big("attempts"),
        sa.Column("counted", sa.Boolean, nullable=False),
        *_big("committed_at", "created_at"),
        sa.Column("segment", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(f"{name}_place", name, ["source", "destination", "mapping", "lsn", "ordinal"], unique=True)
    op.create_index(f"{name}_queue", name, ["source", "state", "destination", "id", "reason"])
    op.create_index(f"{name}_page", name, ["source", "state", "id"])
