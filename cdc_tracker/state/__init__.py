"""What cdc-tracker knows besides the changes: checkpoints, dead letters, the ledger, jobs, what was sent, sources and roles."""

from cdc_tracker.state.dead_letters import Selection
from cdc_tracker.state.locks import Lock
from cdc_tracker.state.records import (
    HOUR,
    JOB_COUNTS,
    Checkpoint,
    Counts,
    DeadLetter,
    InHand,
    Job,
    JobKind,
    JobState,
    LedgerRow,
    LetterState,
    RoleRecord,
    SourceRecord,
    Totals,
)
from cdc_tracker.state.sent import sent_id
from cdc_tracker.state.store import State

__all__ = [
    "HOUR",
    "JOB_COUNTS",
    "Checkpoint",
    "Counts",
    "DeadLetter",
    "InHand",
    "Job",
    "JobKind",
    "JobState",
    "LedgerRow",
    "LetterState",
    "Lock",
    "RoleRecord",
    "Selection",
    "SourceRecord",
    "State",
    "Totals",
    "sent_id",
]
