"""Every state that `run` refuses to go on from. Each has an error, `check` tells it, and `repair` has an answer to it."""

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
"""What `repair` does. `a person`: there is a choice to make, and the error's hint names the command for each way."""


NEW_EPOCH = (
    "if this server is the right one now, `cdc-tracker setup --new-epoch` begins anew with it: a new slot, and event ids that "
    "cannot meet those of before"
)


class Refusal(enum.Enum):
    """What it is, the error that says so, and what `repair` does about it. `error` makes the error: nothing else should."""

    NOT_LET_IN = "the server refuses the connection, or what it is asked for", SourceRefused, "a person"
    SERVER_CANNOT = "the server cannot do what it is asked for", SourceError, "a person"
    PLUGIN_MISSING = "the server has not the slot's plugin any more, or too old a one", SourceError, "a person"
    PLUGIN_UNFIT = "a table is mapped that the slot's plugin does not give exactly", SourceError, "a person"

    NOT_SET_UP = "there is neither a slot nor a record of the source", SlotMissing, "a person"
    STATE_MISSING = "there is a slot, and no record of the source", StateMissing, "a person"
    ALREADY_RUNNING = "another worker of the source runs", AlreadyRunning, "wait"

    OTHER_SERVER = "the system identifier is another one", SourceRestored, "a person"
    OTHER_DATABASE = "source.url leads to another database", SlotForeign, "a person"
    WAL_BEHIND = "the server's WAL ends before what was read", SourceRestored, "a person"
    TIMELINE_LEFT = "the server turned off the timeline before what was read", SourceRestored, "a person"
    OLD_PRIMARY = "the server is on an older timeline", SourceRestored, "a person"
    OTHER_HISTORY = "the server sends another transaction where the journal has one", SourceRestored, "a person"

    SLOT_MISSING = "the slot is gone", SlotMissing, "new slot"
    SLOT_LOST = "the server has removed WAL that the slot needs", SlotLost, "new slot"
    SLOT_FOREIGN = "a slot of that name is of another plugin, database or kind", SlotForeign, "a person"
    SLOT_MOVED = "the slot was moved, or made anew", SlotForeign, "take the slot"
    SLOT_BUSY = "somebody else reads from the slot", SlotBusy, "wait"
    CHECKPOINT_GAP = "the journal lacks what a destination needs, and the slot begins after it", Gap, "take the slot"
    START_TOO_LOW = "a start below the slot's confirmed position was asked for", Gap, "take the slot"

    PUBLICATION_MISSING = "neither of the publications exists", SourceError, "publications"
    PUBLICATION_LOST = "the publication did not exist when the next change was made", PublicationLost, "new slot"
    UNDECODABLE = "the server fails to decode what comes next", Undecodable, "pass over"

    def __init__(self, means: str, kind: type[Stop], mend: Mend) -> None:
        self.means, self.kind, self.mend = means, kind, mend

    def error(self, message: str, *, hint: str) -> Stop:
        error = self.kind(message, hint=hint)
        error.refusal = self.name
        return error

    @classmethod
    def of(cls, error: Stop) -> Refusal | None:
        """None: an error of a store, of the configuration or of a destination, which says itself what to do."""
        return cls[error.refusal] if error.refusal else None
