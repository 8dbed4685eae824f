"""The errors that cdc-tracker raises. The class decides what the caller does; `hint` tells the operator how to fix it.

CdcTrackerError
├── Stop                   an operator must act: the role ends with exit code 3
│   ├── ConfigError        invalid configuration (exit code 1 from `check` and `test-mappings`)
│   │   └── MappingError   invalid mapping files; `problems` lists each with file, line and key
│   ├── SourceError        the source PostgreSQL cannot be read with its present setup
│   │   ├── SourceRefused    credentials, grants, TLS; retried if the server has accepted this worker before
│   │   ├── Undecodable, PublicationLost   the server cannot decode the next change; retried a few times
│   │   ├── SlotMissing, SlotLost, SlotForeign, SlotBusy
│   │   ├── SourceRestored
│   │   └── Gap            continuing would skip changes
│   ├── StateMissing       the state store does not know a source that was set up before
│   └── AlreadyRunning     another process holds the role's lock
├── Retry                  transient: retried with backoff, without a limit
│   ├── SourceUnavailable
│   ├── JournalUnavailable   disk full, database unreachable
│   ├── StateUnavailable
│   └── DestinationUnavailable   network, 408, 429, 5xx; `retry_after` in seconds
│       └── DestinationBlocked   401, 404, 415 and other faults of the request: retried once a minute, with an alarm
├── Fenced                 another process has become the writer: the role ends, and restarts once it gets its lock
├── JournalGone            the journal's file was removed or replaced: the role restarts and looks for what is missing
├── CheckpointMoved        the checkpoint that a destination holds has changed: the role restarts and reads it
├── TooLarge               413: the sender splits the batch
├── InvalidRequest         a caller asks for what does not exist; nothing was changed (exit code 2)
└── BatchRejected          a 400 or 422 that names no event: the sender bisects the batch
"""

from __future__ import annotations

from dataclasses import dataclass

NEEDS_A_PERSON = 3
"""The exit code of a command or a role that ended with Stop."""


class CdcTrackerError(Exception):
    """The base class. `hint`: how to fix it, empty if there is nothing to do."""

    hint: str = ""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or (self.__class__.__doc__ or "").strip().partition("\n")[0] or type(self).__name__)
        if hint:
            self.hint = hint


class Stop(CdcTrackerError):
    """An operator must act before the role can continue. `refusal`: the name of its Refusal, empty if it has none."""

    refusal: str = ""


class ConfigError(Stop):
    """The configuration is invalid."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about a file or the setup: where (`file:line`), which key, what is wrong, how to fix it."""

    where: str
    key: str
    message: str
    hint: str = ""
    severity: str = "error"  # or "warning"

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.key) if part)
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}\n    {self.hint}" if self.hint else text


class MappingError(ConfigError):
    """Mapping files are invalid. `problems` has one Problem for each fault."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SourceError(Stop):
    """The source PostgreSQL cannot be read with its present setup."""


class SourceRefused(SourceError):
    """The server refuses the connection or a command: credentials, grants, TLS, configuration."""


class Undecodable(SourceError):
    """The server cannot decode a change, and fails again at each attempt."""


class PublicationLost(Undecodable):
    """The publication did not exist when the next changes were made."""


class SlotMissing(SourceError):
    """The replication slot does not exist."""


class SlotLost(SourceError):
    """The replication slot was invalidated: the server has removed WAL that it needed."""


class SlotForeign(SourceError):
    """The replication slot was not created by this worker, or another client has read from it."""


class SlotBusy(SourceError):
    """Another process is reading from the replication slot."""


class SourceRestored(SourceError):
    """The server's WAL position is behind what was already read: it was restored, or it is a different server."""


class Gap(SourceError):
    """Continuing would skip changes that the journal does not have."""


class StateMissing(Stop):
    """The state store does not know a source that was set up before."""


class AlreadyRunning(Stop):
    """Another cdc-tracker process holds this role."""


class Fenced(CdcTrackerError):
    """Another process has taken over, or the state store was restored: this process sends and stores nothing more."""

    hint = (
        "Nothing that was in flight is counted. The role ends, and continues from what is stored once it gets its lock. If two "
        "workers run, start one of them with --standby."
    )


class Retry(CdcTrackerError):
    """A transient fault: the caller retries with backoff."""


class SourceUnavailable(Retry):
    """The source PostgreSQL cannot be reached."""


class JournalUnavailable(Retry):
    """The journal cannot be written or read."""


class JournalGone(CdcTrackerError):
    """The journal was removed or replaced while it was in use."""


class CheckpointMoved(CdcTrackerError):
    """The checkpoint that a destination holds is not the one stored last: restored, removed, or written by another worker.

    Nothing of the batch was written. Retrying the batch would hide what the destination lacks, so the role restarts instead.
    """


class StateUnavailable(Retry):
    """The state store cannot be written or read."""


class DestinationUnavailable(Retry):
    """The destination did not take the batch."""

    def __init__(self, message: str = "", *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class DestinationBlocked(DestinationUnavailable):
    """The destination refuses every request: wrong credentials, or the endpoint does not exist."""


class InvalidRequest(CdcTrackerError):
    """A caller of an operation asks for what does not exist or cannot be combined. Nothing was changed."""


class TooLarge(CdcTrackerError):
    """The batch is too large for the destination."""


class BatchRejected(CdcTrackerError):
    """The destination refuses the batch and does not name the event at fault."""


Unexplained = BatchRejected  # the earlier name, which plugins may use
