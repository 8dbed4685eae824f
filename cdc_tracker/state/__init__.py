"""What cdc-tracker knows besides the changes: checkpoints, dead letters, the ledger, jobs, what was sent, sources and roles."""

from cdc_tracker.state.checkpoints import Checkpoints
from cdc_tracker.state.dead_letters import DeadLetters, Selection
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
from cdc_tracker.state.sent_ids import sent_id
from cdc_tracker.state.sources import Sources
from cdc_tracker.state.store import State

__all__ = [
    "HOUR",
    "JOB_COUNTS",
    "Checkpoint",
    "Checkpoints",
    "Counts",
    "DeadLetter",
    "DeadLetters",
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
    "Sources",
    "State",
    "Totals",
    "sent_id",
]
