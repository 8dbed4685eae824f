"""Jobs: history that is sent beside the stream, with what was asked for and how far it is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from cdc_tracker.errors import StateMissing, Stop
from cdc_tracker.model import Position
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
from cdc_tracker.state.outcomes import Outcomes
from cdc_tracker.state.tables import job_segments as segments
from cdc_tracker.state.tables import jobs as t
from cdc_tracker.state.transactions import Aggregate
from cdc_tracker.times import now_micros

S = TypeVar("S", bound=msgspec.Struct)

FINISHED = ("done", "cancelled")
_AT_WORK = ("queued", "running")  # the states that the job's runner may change: users set the others, or they are final

# A job and its segment in one statement: a commit could come between two.
_WITH_SEGMENT = select(t, segments.c.segment).outerjoin(segments, segments.c.job_id == t.c.id)
_ONE = _WITH_SEGMENT.where(t.c.id == bindparam("of_id"))
_NEXT = (
    _WITH_SEGMENT.where(t.c.source == bindparam("source"), t.c.destination == bindparam("destination"), t.c.state.in_(_AT_WORK))
    .order_by(t.c.state != "running", t.c.id)
    .limit(1)
)
_NEED = (
    select(t.c.needs_lsn, t.c.needs_ordinal)
    .where(t.c.source == bindparam("source"), t.c.state.not_in(FINISHED), t.c.needs_lsn.is_not(None))
    .order_by(t.c.needs_lsn, t.c.needs_ordinal)
    .limit(1)
)
_LOCK = select(t).where(t.c.id == bindparam("of_id")).with_for_update()
_ENDED: dict[str, Any] = {"digest": 0, "needs_lsn": None, "needs_ordinal": None}
_NEW_EPOCH = (
    "The source was set up with a new epoch: its earlier positions and event ids are void. Cancel this job and start a new one."
)


class Jobs(Aggregate):
    """Jobs of all destinations, with their progress."""

    def create(self, source: str, destination: str, spec: Spec, *, needs: Position | None = None, total: int = 0) -> Job:
        """Queues a job behind the destination's others. Wake its delivery afterwards."""
        moment = now_micros()
        kind = "replay" if isinstance(spec, ReplaySpec) else "backfill"
        given = {"source": source, "destination": destination, "kind": kind, "state": "queued", "spec": _json(spec)}
        rest = {"progress": "{}", "counts": _json(JobCounts(total=total)), "trouble": "", "digest": 0, **_needs(needs)}
        times = {"created_at": moment, "started_at": 0, "finished_at": 0, "updated_at": moment}
        with self._transactions.writing() as connection:
            return _job(connection.execute(insert(t).returning(t), given | rest | times).one())

    def get(self, job_id: int) -> Job | None:
        """The job with its segment; None if there is none."""
        with self._transactions.reading() as connection:
            row = connection.execute(_ONE, {"of_id": job_id}).first()
        return _with_segment(row) if row else None

    def all(self, source: str, *, destination: str | None = None, unfinished: bool = False) -> list[Job]:
        """Returns the jobs in order of id, without segments."""
        query = select(t).where(t.c.source == source).order_by(t.c.id)
        if destination is not None:
            query = query.where(t.c.destination == destination)
        if unfinished:
            query = query.where(t.c.state.not_in(FINISHED))
        with self._transactions.reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def next(self, source: str, destination: str) -> Job | None:
        """The running job, or else the first queued one. A paused or failed one does not hold back those behind it."""
        with self._transactions.reading() as connection:
            row = connection.execute(_NEXT, {"source": source, "destination": destination}).first()
        return _with_segment(row) if row else None

    def need(self, source: str) -> Position | None:
        """The journal must keep what is after this position. None: no unfinished job needs any of it."""
        with self._transactions.reading() as connection:
            row = connection.execute(_NEED, {"source": source}).first()
        return Position(*row) if row else None

    def commit(self, job: Job, outcomes: Outcomes) -> JobState:
        """Stores the job's progress and the outcomes, all or nothing.

        Its state is stored if it is running, done or failed, and the job was not paused, cancelled or failed meanwhile: what a
        user asked for stays. Returns the state in force; if that is not `running`, the caller leaves the job alone.
        """
        with self._transactions.fenced() as connection:
            state = _write(connection, job)
            outcomes.store(connection, job.source, job.destination)
        return state

    def control(self, job_id: int, to: Literal["paused", "queued", "cancelled"]) -> JobState:
        """Pause, resume or cancel. Raises Stop if the job's state does not allow it. Wake the delivery afterwards.

        Returns the state in force: a running job that is resumed stays running. Asking for the present state is no error.
        """
        with self._transactions.writing() as connection:
            found = _locked(connection, job_id)
            state: JobState = found.state
            if state == to or (to == "queued" and state == "running"):
                return state
            if found.state in FINISHED or (to == "paused" and found.state == "failed"):
                raise _refused(found, to)
            moment = now_micros()
            values: dict[str, Any] = {"state": to, "updated_at": moment}
            if to == "queued":
                values |= {"trouble": "", "finished_at": 0}
            if to == "cancelled":
                values |= _ENDED | {"finished_at": moment}
                _replace_segment(connection, job_id, b"")
            _update(connection, job_id, values)
            return to


def _write(connection: Connection, job: Job) -> JobState:
    """Progress and counts are stored in any case: what was sent was sent, even if the job was paused or cancelled meanwhile."""
    found = _locked(connection, job.id)
    state: JobState = job.state if found.state in _AT_WORK and job.state in ("running", "done", "failed") else found.state
    moment = now_micros()
    values: dict[str, Any] = {
        "state": state,
        "progress": _json(job.progress),
        "counts": _json(job.counts),
        "trouble": found.trouble if found.state == "failed" else job.trouble,
        "digest": _digest(job.segment),
        "started_at": found.started_at or (moment if job.state != "queued" else 0),
        "finished_at": found.finished_at or (moment if state in ("done", "failed") else 0),
        "updated_at": moment,
        **_needs(job.needs),
    }
    if state in FINISHED:
        values |= _ENDED
    if values["digest"] != found.digest:
        _replace_segment(connection, job.id, job.segment if values["digest"] else b"")
    _update(connection, job.id, values)
    return state


def end_all(connection: Connection, source: str) -> None:
    """Fail the unfinished jobs of a source whose positions lost their meaning. They keep nothing of the journal."""
    moment = now_micros()
    unfinished = (t.c.source == source, t.c.state.not_in(FINISHED))
    values = {"state": "failed", "trouble": _NEW_EPOCH, "finished_at": moment, "updated_at": moment}
    connection.execute(delete(segments).where(segments.c.job_id.in_(select(t.c.id).where(*unfinished))))
    connection.execute(update(t).where(*unfinished).values(**values, **_ENDED))


def forget(connection: Connection, source: str) -> None:
    """Removes the jobs of a source, with their segments."""
    of_source = t.c.source == source
    connection.execute(delete(segments).where(segments.c.job_id.in_(select(t.c.id).where(of_source))))
    connection.execute(delete(t).where(of_source))


def _refused(job: Row[Any], to: str) -> Stop:
    asked = {"paused": "paused", "queued": "resumed", "cancelled": "cancelled"}[to]
    if job.state == "failed":
        return Stop(f"Job {job.id} cannot be {asked}: it has failed and does not run.", hint="Resume it, or cancel it.")
    ended = "done" if job.state == "done" else "cancelled"
    hint = "" if to == "cancelled" else "Start a new job for what should be sent again."
    return Stop(f"Job {job.id} cannot be {asked}: it is {ended}.", hint=hint)


def _locked(connection: Connection, job_id: int) -> Row[Any]:
    row = connection.execute(_LOCK, {"of_id": job_id}).first()
    if row is None:
        raise StateMissing(f"The state store has no job {job_id}.", hint="`cdc-tracker jobs` lists the jobs.")
    return row


def _digest(segment: bytes) -> int:
    """0 for none."""
    return int.from_bytes(hashlib.blake2b(segment, digest_size=8).digest(), signed=True) or 1 if segment else 0


def _replace_segment(connection: Connection, job_id: int, segment: bytes) -> None:
    connection.execute(delete(segments).where(segments.c.job_id == job_id))
    if segment:
        connection.execute(insert(segments), {"job_id": job_id, "segment": segment})


def _with_segment(row: Row[Any]) -> Job:
    return replace(_job(row), segment=row.segment or b"")


def _update(connection: Connection, job_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(t).where(t.c.id == job_id).values(**values))


def _json(value: object) -> str:
    return value.text if isinstance(value, Unreadable) else msgspec.json.encode(value).decode()


def _read(text: str, kind: type[S]) -> S | Unreadable:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        return Unreadable(str(error), text)


def _needs(position: Position | None) -> dict[str, int | None]:
    lsn, ordinal = position if position is not None else (None, None)
    return {"needs_lsn": lsn, "needs_ordinal": ordinal}


_as_they_are = ("id", "source", "destination", "kind", "state", "trouble", "created_at", "started_at", "finished_at")


def _job(row: Row[Any]) -> Job:
    found = row._mapping
    return Job(
        **{name: found[name] for name in _as_they_are},
        spec=_read(row.spec, ReplaySpec) if row.kind == "replay" else _read(row.spec, BackfillSpec),
        progress=_read(row.progress, ReplayProgress) if row.kind == "replay" else _read(row.progress, BackfillProgress),
        counts=msgspec.json.decode(row.counts, type=JobCounts),
        needs=Position(row.needs_lsn, row.needs_ordinal) if row.needs_lsn is not None else None,
        segment=b"",
        updated_at=row.updated_at,
    )
