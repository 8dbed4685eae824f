"""Every state in which `run` refuses to continue. Each has an error, a finding of `check`, and an answer of `repair`."""

from __future__ import annotations

import enum
from typing import Literal

from cdc_tracker.errors import (
    AlreadyRunning,
    Gap,
    PublicationLost,
    SlotBusy,
    SlotForeign,
    SlotLost,
    SlotMissing,
    SourceError,
    SourceRefused,
    SourceRestored,
    StateMissing,
    Stop,
    Undecodable,
)

Mend = Literal["a person", "wait", "publications", "new slot", "take the slot", "pass over"]
"""What `repair` does, as its JSON names it. `a person`: nothing; the error's hint names the command for each choice."""


NEW_EPOCH = (
    "if this is the right server now, `cdc-tracker setup --new-epoch` starts again with it: a new slot, and event ids that "
    "differ from all earlier ones"
)


class Refusal(enum.Enum):
    """(what it means, its error, what `repair` does). `error` is the only place where such an error is created."""

    NOT_LET_IN = "the server refuses the connection or a request", SourceRefused, "a person"
    SERVER_CANNOT = "the server cannot fulfil a request", SourceError, "a person"
    PLUGIN_MISSING = "the server no longer has the slot's plugin, or its version is too old", SourceError, "a person"
    PLUGIN_UNFIT = "the slot's plugin does not represent a mapped table exactly", SourceError, "a person"

    NOT_SET_UP = "neither the slot nor a record of the source exists", SlotMissing, "a person"
    STATE_MISSING = "the slot exists, but no record of the source", StateMissing, "a person"
    ALREADY_RUNNING = "another worker of the source is running", AlreadyRunning, "wait"

    OTHER_SERVER = "the system identifier differs", SourceRestored, "a person"
    OTHER_DATABASE = "source.url names another database", SlotForeign, "a person"
    WAL_BEHIND = "the server's WAL ends before what was read", SourceRestored, "a person"
    TIMELINE_LEFT = "the server left the timeline before the end of what was read", SourceRestored, "a person"
    OLD_PRIMARY = "the server is on an older timeline", SourceRestored, "a person"
    OTHER_HISTORY = "the server sends another transaction in place of one that the journal has", SourceRestored, "a person"

    SLOT_MISSING = "the slot does not exist", SlotMissing, "new slot"
    SLOT_LOST = "the server has removed WAL that the slot needs", SlotLost, "new slot"
    SLOT_FOREIGN = "the slot of that name has another plugin, database or kind", SlotForeign, "a person"
    SLOT_MOVED = "the slot was advanced or recreated by someone else", SlotForeign, "take the slot"
    SLOT_BUSY = "another process reads from the slot", SlotBusy, "wait"
    CHECKPOINT_GAP = "the journal lacks changes that a destination needs, and the slot starts after them", Gap, "take the slot"
    START_TOO_LOW = "the requested start is below the slot's confirmed position", Gap, "take the slot"

    PUBLICATION_MISSING = "neither of the publications exists", SourceError, "publications"
    PUBLICATION_LOST = "the publication did not exist when the next change was made", PublicationLost, "new slot"
    UNDECODABLE = "the server cannot decode the next transaction", Undecodable, "pass over"

    def __init__(self, means: str, kind: type[Stop], mend: Mend) -> None:
        self.means, self.kind, self.mend = means, kind, mend

    def error(self, message: str, *, hint: str) -> Stop:
        """The error of this refusal, to be raised."""
        error = self.kind(message, hint=hint)
        error.refusal = self.name
        return error

    @classmethod
    def of(cls, error: Stop) -> Refusal | None:
        """The refusal of an error; None for errors of stores, configuration and destinations, whose hints say what to do."""
        return cls[error.refusal] if error.refusal else None
