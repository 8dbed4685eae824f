"""The state store: one object per process, one attribute per aggregate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import delete, select

from cdc_tracker.closing import Closing
from cdc_tracker.errors import AlreadyRunning, StateMissing, StateUnavailable
from cdc_tracker.state import checkpoints, jobs, locks, migrations, sent_ids, sources, tables
from cdc_tracker.state.checkpoints import Checkpoints
from cdc_tracker.state.dead_letters import DeadLetters
from cdc_tracker.state.in_hand import DeliveriesInHand
from cdc_tracker.state.jobs import Jobs
from cdc_tracker.state.ledger import Ledger
from cdc_tracker.state.mappings import MappingRecords
from cdc_tracker.state.reports import Reports
from cdc_tracker.state.sent_ids import SentIds
from cdc_tracker.state.sources import Sources
from cdc_tracker.state.transactions import Transactions
from cdc_tracker.storage.database import Database, Kind


@contextmanager
def _all_free(database: Database) -> Iterator[None]:
    """Keeps every worker from starting on the store. Raises AlreadyRunning if one of any source, or a role of it, runs."""
    with database.reading() as connection:
        sources = connection.execute(select(tables.sources.c.name)).scalars().all()
        places = connection.execute(select(tables.checkpoints.c.source, tables.checkpoints.c.destination).distinct()).all()
    roles = [f"{source}.capture" for source in sources] + [f"{source}.deliver:{destination}" for source, destination in places]
    with ExitStack() as stack:
        try:
            for source in sources:
                stack.enter_context(locks.make(database, f"{source}.worker", 0.0, 0.0, lambda: False))
            for role in roles:
                with locks.make(database, role, 0.0, 0.0, lambda: False):
                    pass
        except AlreadyRunning as error:
            raise AlreadyRunning(
                f"The state store ({database.place}) is of an older version, and in use: {error}",
                hint="Stop that worker first: the store is migrated when this version is started. --standby waits for that.",
            ) from None
        yield


KIND = Kind(
    noun="the state store",
    unavailable=StateUnavailable,
    gone=StateMissing,
    version_table="cdc_tracker_state_version",
    migrations=Path(migrations.__file__).parent,
    revisions=migrations.REVISIONS,
    unused=_all_free,
)


class State(Closing):
    """Every method of an aggregate is durable when it returns, and raises StateUnavailable if the store cannot be used.

    Several processes share a store; methods may be called from any thread. After `claim`, the methods by which a role stores its
    work raise Fenced if another process has taken over or the store was restored. Commands need no claim.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transactions = transactions = Transactions(database)
        self.sources = Sources(transactions)
        self.checkpoints = Checkpoints(transactions)
        self.dead_letters = DeadLetters(transactions)
        self.ledger = Ledger(transactions)
        self.sent_ids = SentIds(transactions)
        self.jobs = Jobs(transactions)
        self.in_hand = DeliveriesInHand(transactions)
        self.mappings = MappingRecords(transactions)
        self.reports = Reports(transactions)

    @classmethod
    def open(cls, url: str) -> State:
        """Creates and migrates the store if needed."""
        return cls(Database.open(url, KIND))

    @classmethod
    def open_to_read(cls, url: str) -> State:
        """For reading, also while the disk is full. A missing or older store is created and migrated."""
        return cls(Database.open_to_read(url, KIND))

    def close(self) -> None:
        """Closes the connections to the store."""
        self._database.close()

    def lock(self, name: str, wait: float = 0, *, grace: float = 0, stop: Callable[[], bool] = lambda: False) -> locks.Lock:
        """A context manager. Entering it raises AlreadyRunning, naming the holder, if the lock is not free within `wait` seconds.

        `grace`: seconds for which the lock must have been free. A server that restarts frees all locks, and their holders take
        them again.
        """
        self._transactions.lock = lock = locks.make(self._database, name, wait, grace, stop)
        return lock

    def claim(self, lock: locks.Lock, source: str, destination: str | None = None) -> None:
        """Makes this object the only writer of a delivery's work; without a destination, of capture's. The caller holds `lock`.

        The next commit of any earlier writer is refused. Read stored state after this call, not before.
        """
        row = sources.claimed(source) if destination is None else checkpoints.claimed(source, destination)
        self._transactions.claim(row, lock)

    def forget(self, source: str) -> None:
        """Removes everything about a source, from all aggregates, in one transaction."""
        with self._transactions.writing() as connection:
            jobs.forget(connection, source)
            sent_ids.forget(connection, source)
            for table in (
                tables.checkpoints,
                tables.dead_letters,
                tables.ledger,
                tables.totals,
                tables.in_hand,
                tables.mappings,
                tables.roles,
            ):
                connection.execute(delete(table).where(table.c.source == source))
            connection.execute(delete(tables.sources).where(tables.sources.c.name == source))
