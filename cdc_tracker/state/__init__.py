"""The state store: checkpoints, dead letters, the ledger, jobs, what was sent, sources and roles."""

from cdc_tracker.state.checkpoints import Checkpoints
from cdc_tracker.state.dead_letters import DeadLetters, Selection
from cdc_tracker.state.job import (
    BackfillProgress,
    BackfillSpec,
    Job,
    JobCounts,
    JobState,
    ReplayProgress,
    ReplaySpec,
    Spec,
    Unreadable,
)
from cdc_tracker.state.locks import Lock
from cdc_tracker.state.outcomes import Outcomes
from cdc_tracker.state.records import HOUR, Checkpoint, DeadLetter, LedgerRow, LetterState, MappingRecord, SourceRecord, Totals
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
    "SUPERVISOR",
    "Alarm",
    "BackfillProgress",
    "BackfillSpec",
    "CaptureReport",
    "Checkpoint",
    "Checkpoints",
    "DeadLetter",
    "DeadLetters",
    "DeliveryReport",
    "Job",
    "JobCounts",
    "JobState",
    "JournalLost",
    "LedgerRow",
    "LetterState",
    "Lock",
    "MappingRecord",
    "Outcomes",
    "ReloadFailed",
    "ReplayProgress",
    "ReplaySpec",
    "RoleEnds",
    "RoleRecord",
    "RoleReport",
    "Selection",
    "SourceRecord",
    "Sources",
    "Spec",
    "State",
    "SupervisorReport",
    "Totals",
    "Unreadable",
    "report_type",
    "sent_id",
]
