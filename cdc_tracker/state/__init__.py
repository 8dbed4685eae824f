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
    SourceRecord,
    Totals,
)
from cdc_tracker.state.reports import (
    CAPTURE,
    SUPERVISOR,
    Alarm,
    CaptureReport,
    DeliveryReport,
    JournalLost,
    ReloadFailed,
    RoleEnds,
    RoleRecord,
    RoleReport,
    SupervisorReport,
    report_type,
)
from cdc_tracker.state.sent_ids import sent_id
from cdc_tracker.state.sources import Sources
from cdc_tracker.state.store import State

__all__ = [
    "CAPTURE",
    "HOUR",
    "JOB_COUNTS",
    "SUPERVISOR",
    "Alarm",
    "CaptureReport",
    "Checkpoint",
    "Checkpoints",
    "Counts",
    "DeadLetter",
    "DeadLetters",
    "DeliveryReport",
    "InHand",
    "Job",
    "JobKind",
    "JobState",
    "JournalLost",
    "LedgerRow",
    "LetterState",
    "Lock",
    "ReloadFailed",
    "RoleEnds",
    "RoleRecord",
    "RoleReport",
    "Selection",
    "SourceRecord",
    "Sources",
    "State",
    "SupervisorReport",
    "Totals",
    "report_type",
    "sent_id",
]
