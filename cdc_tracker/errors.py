"""Every error of ours. What a class says is what is done with it; `hint` tells the operator how to mend it.

CdcTrackerError
├── Stop                   a person is needed: the role ends, exit code 3
│   ├── ConfigError        the configuration or a mapping does not hold (exit code 1 from `check` and `test-mappings`)
│   │   └── MappingError   … in a mapping file; `problems` lists each with file, line and key
│   ├── SourceError        the captured PostgreSQL cannot be read as it is set up
│   │   ├── SourceRefused    it does not let us in: credentials, grants, TLS; tried again once it has let us in before
│   │   ├── Undecodable PublicationLost   it cannot decode what comes next; a few tries, as it may pass
│   │   ├── SlotMissing SlotLost SlotForeign SlotBusy
│   │   ├── SourceRestored
│   │   └── Gap            going on would skip changes
│   ├── StateMissing       the state store is empty although the source knows us
│   └── AlreadyRunning     another process of ours holds the role
├── Retry                  passing: try again with backoff, forever
│   ├── SourceUnavailable
│   ├── JournalUnavailable   its disk is full, its database away
│   ├── StateUnavailable
│   └── DestinationUnavailable   network, 408, 429, 5xx; `retry_after` in seconds
│       └── DestinationBlocked   401, 404, 415 …, what speaks of the request: once a minute, and alarm
├── Fenced                 another process writes by now: the role ends, and starts anew once it can have its lock
├── JournalGone            its file was removed or replaced under us: the role starts anew and looks what is missing
├── CheckpointMoved        the checkpoint that a destination holds is not where we left it: the role starts anew and reads it
├── TooLarge               413: the core splits the batch
└── BatchRejected            a 400 or 422 that names no event: the core bisects the batch
"""

from __future__ import annotations

from dataclasses import dataclass


class CdcTrackerError(Exception):
    """Something went wrong in cdc-tracker."""

    hint: str = ""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or (self.__class__.__doc__ or "").strip().partition("\n")[0] or type(self).__name__)
        if hint:
            self.hint = hint


class Stop(CdcTrackerError):
    """A person is needed before this can go on. `refusal`: the name of the Refusal that it is, where it is one."""

    refusal: str = ""


class ConfigError(Stop):
    """The configuration does not hold."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about a file or the setup: where (`file:line`), which key, what is wrong, how to mend it."""

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
    """A mapping file does not hold."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SourceError(Stop):
    """The source PostgreSQL cannot be read as it is set up."""


class SourceRefused(SourceError):
    """The server does not let us in, or not do what we need: credentials, grants, TLS, configuration."""


class Undecodable(SourceError):
    """The server cannot decode a change, and fails at it again whenever it is asked."""


class PublicationLost(Undecodable):
    """The publication did not exist when the changes were made that come next."""


class SlotMissing(SourceError):
    """The replication slot does not exist."""


class SlotLost(SourceError):
    """The replication slot was invalidated: the server has removed WAL that it needed."""


class SlotForeign(SourceError):
    """The replication slot is not the one this worker made, or someone else has read from it."""


class SlotBusy(SourceError):
    """Another process is reading from the replication slot."""


class SourceRestored(SourceError):
    """The server's WAL position is behind what was already read: it was restored, or it is another server."""


class Gap(SourceError):
    """Going on would skip changes that no journal holds."""


class StateMissing(Stop):
    """The state store knows nothing of a source that was set up before."""


class AlreadyRunning(Stop):
    """Another cdc-tracker process holds this role."""


class Fenced(CdcTrackerError):
    """Another process has taken over, or the state store was taken back: nothing more is sent or stored from what we know."""

    hint = (
        "Nothing that was in flight is counted. The role ends, and goes on from what is stored once it can have its lock. If two "
        "workers run, start one of them with --standby."
    )


class Retry(CdcTrackerError):
    """A passing fault: it is tried again with backoff."""


class SourceUnavailable(Retry):
    """The source PostgreSQL cannot be reached."""


class JournalUnavailable(Retry):
    """The journal cannot be written or read."""


class JournalGone(CdcTrackerError):
    """The journal was removed or replaced while it was in use."""


class CheckpointMoved(CdcTrackerError):
    """The checkpoint that a destination holds is not the one stored last: it was restored or removed, or another worker writes.

    Nothing of the batch was written. Sent again as it is, the batch would hide what the destination lacks.
    """


class StateUnavailable(Retry):
    """The state store cannot be written or read."""


class DestinationUnavailable(Retry):
    """The destination did not take the batch."""

    def __init__(self, message: str = "", *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class DestinationBlocked(DestinationUnavailable):
    """The destination refuses us: wrong credentials, or the endpoint is gone."""


class TooLarge(CdcTrackerError):
    """The destination finds the batch too large."""


class BatchRejected(CdcTrackerError):
    """The destination refuses the batch without saying which event it minds."""


Unexplained = BatchRejected  # the earlier name, which plugins may use
