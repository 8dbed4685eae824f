"""A stream through a temporary slot, which leaves nothing in the database."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any

from cdc_tracker.closing import Closing
from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.errors import Problem
from cdc_tracker.model import Position, Segment
from cdc_tracker.sources.postgres import catalog, plugins, publication
from cdc_tracker.sources.postgres.connection import connect, translated
from cdc_tracker.sources.postgres.drift import drift
from cdc_tracker.sources.postgres.needs import Need
from cdc_tracker.sources.postgres.placement import desired
from cdc_tracker.sources.postgres.session import Session

PREFIX = "cdc_tracker_preview_"
FEEDBACK = 1.0  # seconds

# Publications of killed previews: the backend whose pid is in the name has ended.
_LEFT_BEHIND = f"""
SELECT p.pubname FROM pg_publication p
 WHERE p.pubname ~ '^{PREFIX}[0-9]+(_inserts)?$' AND pg_has_role(p.pubowner, 'USAGE')
   AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = substring(p.pubname from '[0-9]+')::int)
"""


class TemporaryStream(Closing):
    """A context manager; `segments` streams what commits after it was entered.

    wal2json needs no publication. For pgoutput the existing publications are used if they contain every table wanted; else
    temporary ones are created (`publication` is their name) and dropped at the end, or by the next preview if this one is killed.
    """

    def __init__(self, settings: SourceSettings, needs: Mapping[str, Need]) -> None:
        self._settings, self._needs = settings, needs
        self._stack = ExitStack()
        self.publication = ""
        self.problems: list[Problem] = []

    def __enter__(self) -> TemporaryStream:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Drops the temporary publications, and closes the connections."""
        self._stack.close()

    def _open(self) -> None:
        control = self._stack.enter_context(closing(connect(self._settings.url.get_secret_value(), application_name="preview")))
        self.identity = catalog.identify(control)
        self.plugin = plugins.choose(control, self._settings, self._needs)
        settings = self._settings.model_copy(update={"slot": f"{PREFIX}{uuid.uuid4().hex[:16]}"})
        if self.plugin == "pgoutput":
            settings = self._published(control, settings)
        self._session = self._stack.enter_context(Session(settings, self._needs))
        self._session.plugin = self.plugin
        self._start = self._session.stream.create_temporary_slot(settings.slot, self.plugin)

    def _published(self, control: Any, settings: SourceSettings) -> SourceSettings:
        """Settings whose publications contain every table wanted. These must exist before the slot is created."""
        self._sweep(control)
        settings = self._with_outbox_that_exists(control, settings)
        wanted = desired(control, settings, self._needs)
        self.problems = list(wanted.problems)
        present = publication.existing(control, publication.names(settings))
        if not any(problem.severity == "error" for problem in drift(wanted, present)[len(wanted.problems) :]):
            return settings
        with translated():
            [(pid,)] = control.execute("SELECT pg_backend_pid()").fetchall()  # a pooler reports another one to clients
        own = settings.model_copy(update={"publication": f"{PREFIX}{pid}"})
        publication.apply(control, publication.plan(desired(control, own, self._needs).publications, {}))
        self._stack.callback(publication.apply, control, publication.drop_statements(own))
        self.publication = own.publication
        return own

    def _with_outbox_that_exists(self, control: Any, settings: SourceSettings) -> SourceSettings:
        """Settings without the outbox if its table does not exist, as before `setup`."""
        outbox = settings.outbox
        if outbox is None or outbox.table in catalog.tables(control, [outbox.table]):
            return settings
        self._needs = {table: need for table, need in self._needs.items() if table != outbox.table}
        return settings.model_copy(update={"outbox": None})

    def _sweep(self, control: Any) -> None:
        with translated():
            left = [name for (name,) in control.execute(_LEFT_BEHIND)]
            for name in left:
                control.execute(publication.drop(name).encode())

    def segments(self, done: Callable[[], bool]) -> Iterator[Segment]:
        """Segments of what arrives until `done()`; one ends when the server pauses or the segment is full."""
        after = Position(self._start, -1)
        builder = self._session.builder(after)
        stream = self._session.start(self._start)
        due = 0.0
        while not done():
            frame = stream.receive()
            if frame is not None:
                builder.add(frame)
            if builder.count and (frame is None or builder.full):
                segment = builder.close()
                if segment is not None:
                    yield segment
            if time.monotonic() >= due or stream.reply_due:
                stream.feedback(stream.wal_end, builder.seen.commit_lsn, ask=stream.asking)
                due = time.monotonic() + FEEDBACK
            if frame is None:
                stream.wait(0.1)
