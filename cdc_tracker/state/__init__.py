"""What cdc-tracker knows besides the changes: checkpoints, dead letters, the ledger, sources and roles."""

from cdc_tracker.state.dead_letters import Selection
from cdc_tracker.state.locks import Lock
from cdc_tracker.state.records import HOUR, Checkpoint, Counts, DeadLetter, LedgerRow, LetterState, RoleRecord, SourceRecord
from cdc_tracker.state.settings import StateSettings
from cdc_tracker.state.store import State

__all__ = [
    "HOUR",
    "Checkpoint",
    "Counts",
    "DeadLetter",
    "LedgerRow",
    "LetterState",
    "Lock",
    "RoleRecord",
    "Selection",
    "SourceRecord",
    "State",
    "StateSettings",
]
