"""The times of segments, so that one is found without a scan."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_FILL = """
INSERT INTO cdc_tracker_segment_time (source, reached, number, first_time, last_time, setback)
SELECT source, reached, number, first_time, last_time,
       max(reached - first_time) OVER (PARTITION BY source ORDER BY number)
FROM (SELECT source, number,
             CASE WHEN first_time < last_time THEN first_time ELSE last_time END AS first_time,
             CASE WHEN first_time < last_time THEN last_time ELSE first_time END AS last_time,
             max(CASE WHEN first_time < last_time THEN last_time ELSE first_time END)
                 OVER (PARTITION BY source ORDER BY number) AS reached
      FROM cdc_tracker_segment) AS times
"""


def upgrade() -> None:
    big = sa.BigInteger()
    op.create_table(
        "cdc_tracker_segment_time",
        sa.Column("source", sa.Text, primary_key=True),
        *(sa.Column(name, big, primary_key=True, autoincrement=False) for name in ("reached", "number")),
        *(sa.Column(name, big, nullable=False) for name in ("first_time", "last_time", "setback")),
        sqlite_with_rowid=False,
    )
    op.execute(_FILL)
    op.drop_index("cdc_tracker_segment_last", "cdc_tracker_segment")
    op.create_index("cdc_tracker_segment_last", "cdc_tracker_segment", ["source", "last_lsn", "last_ordinal", "number"])
