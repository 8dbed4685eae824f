"""The delivery loop of one destination on real stores: the journal is filled by hand, and the destination is a double."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cdc_tracker.config.settings import SourceSettings
from cdc_tracker.delivery.jobs.runner import Jobs
from cdc_tracker.delivery.loop import Delivery
from cdc_tracker.delivery.mapping_versions import LoadedMappings, MappingVersions
from cdc_tracker.destinations.base import Cursor, Destination, DestinationSettings, Limits
from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.errors import Stop
from cdc_tracker.journal import Journal
from cdc_tracker.mapping import Mappings, load_texts
from cdc_tracker.model import DELIVERED, START, Batch, Event, Position, Receipt
from cdc_tracker.pipeline import Pipeline, route_of
from cdc_tracker.state import LedgerRow, State
from cdc_tracker.state.transactions import Aggregate
from tests.unit.pipeline.frames import SPACE, Commit, Order, at, segments

MAPPING = """
version: 1
events:
  - name: Order Paid
    table: shop.orders
    on: [insert]
    user_id: new.user_id
    properties: {id: new.id, status: {value: new.status, type: string}}
"""
SECONDS = 30.0


class Stage:
    """`rows` commits orders of these ids; `delivering` is a role at work, which ends with the block."""

    def __init__(self, folder: Path, stack: ExitStack, mapping: str = MAPPING) -> None:
        self.state = stack.enter_context(State.open(f"sqlite:///{folder}/state.sqlite"))
        self.journal = stack.enter_context(Journal.open(f"sqlite:///{folder}/journal.sqlite", "main", folder / "wake"))
        self.state.checkpoints.create("main", "d", START)
        self.mapping = mapping
        self.settings: dict[str, Any] = {}
        self._commits: list[Commit] = []
        self._reload = threading.Event()

    def rows(self, *ids: int | Order, each: int = 1) -> None:
        """A transaction each; `each` of them in a segment."""
        orders = [one if isinstance(one, Order) else Order(one) for one in ids]
        before = len(segments(self._commits, 1)) if self._commits else 0
        self._commits += [Commit(at(len(self._commits) + n), [order]) for n, order in enumerate(orders)]
        self.journal.append(segments(self._commits, each)[before // each :])

    def reload(self) -> None:
        self._reload.set()
        self.journal.wake()

    def pipeline(self, mappings: Mappings | None = None, *, only: Any = None) -> Pipeline:
        given = mappings or load_texts({"events.yml": self.mapping})
        steps = [route_of(self.destination_settings)]
        return Pipeline(given, outbox=None, namespace=SPACE, database="shop", destination="d", steps=steps, only=only)

    @property
    def destination_settings(self) -> DestinationSettings:
        return DestinationSettings.model_validate({"type": "memory", **self.settings})

    def _load(self) -> LoadedMappings:
        return LoadedMappings(self.pipeline(), {"events.yml": self.mapping})

    def _take_reload(self) -> bool:
        asked = self._reload.is_set()
        self._reload.clear()
        return asked

    def delivery(self, destination: Destination, state: State, stop: Callable[[], bool], abandon: Callable[[], bool]) -> Delivery:
        settings = self.destination_settings
        jobs = Jobs(
            settings=SourceSettings.model_validate({"name": "main", "url": "postgresql://nobody"}),
            name="d",
            destination=destination,
            state=state,
            journal=self.journal,
            pipelines=self.pipeline,
            keep_ids=settings.sent_ledger is not None,
            abandon=abandon,
        )
        return Delivery(
            cursor=Cursor("main", "d"),
            destination=destination,
            dry_run=settings.dry_run,
            mappings=MappingVersions("d", self._load, lambda texts: self.pipeline(load_texts(texts))),
            journal=self.journal,
            state=state,
            jobs=jobs,
            sent_ledger=settings.sent_ledger,
            stop=stop,
            abandon=abandon,
            reload=self._take_reload,
        )

    @contextmanager
    def delivering(
        self, destination: Destination, *, drain: bool = True, state: State | None = None
    ) -> Iterator[threading.Thread]:
        """In a thread of its own. `drain`: at the end what is in flight is waited for. Raises what the role ends with."""
        stopped, abandoned = threading.Event(), threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            try:
                self.delivery(destination, state or self.state, stopped.is_set, abandoned.is_set).run()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            stopped.set()
            if not drain:
                abandoned.set()
            self.journal.wake()
            thread.join(SECONDS)
            abandoned.set()
            thread.join(SECONDS)
            assert not thread.is_alive(), "the role did not end"
        if raised:
            raise raised[0]

    # What the stores say.

    def ledger(self) -> LedgerRow:
        rows = self.state.ledger.rows("main", "d")
        sums = [sum(getattr(row, name) for row in rows) for name in COUNTED]
        return LedgerRow("d", "", 0, *sums)

    def settled(self, number: int) -> bool:
        """So many events are counted, and none is pending."""
        row = self.ledger()
        return row.matched == number and row.pending == 0

    def parked(self) -> list[str]:
        return [letter.reason for letter in self.state.dead_letters.page("main", limit=10_000)]

    def said(self) -> tuple[str, str]:
        """The role's state, and what troubles it."""
        for role in self.state.reports.all("main"):
            if role.role == "deliver:d":
                return role.state, role.report.trouble
        return "", ""


class Killed(Stop):
    """The process ends here: nothing more of it is done. The only kind of error that nobody handles."""


class Fault(NamedTuple):
    error: BaseException
    number: int = 1  # the call at which it comes
    after: bool = False  # what was called for has been done by then
    times: int = 1


class Trap:
    """An object whose methods fail as `faults` says, by name; of an aggregate of the state, `checkpoints.commit`.

    Once one of several that share `dead` has raised Killed, all raise that.
    """

    def __init__(self, inner: Any, dead: threading.Event | None = None, whole: Trap | None = None, prefix: str = "") -> None:
        self._inner, self._prefix = inner, prefix
        self.faults: dict[str, Fault] = whole.faults if whole else {}
        self._calls: Counter[str] = whole._calls if whole else Counter()
        self._dead = dead or threading.Event()

    def calls(self, name: str) -> int:
        return self._calls[name]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if isinstance(found, Aggregate):
            return Trap(found, self._dead, self, f"{name}.")
        name = self._prefix + name
        if not callable(found):
            return found

        def called(*arguments: Any, **named: Any) -> Any:
            if self._dead.is_set():
                raise Killed
            self._calls[name] += 1
            fault = self.faults.get(name)
            due = fault is not None and fault.number <= self._calls[name] < fault.number + fault.times
            if fault is None or not due or fault.after:
                done = found(*arguments, **named)
            if fault is not None and due:
                if isinstance(fault.error, Killed):
                    self._dead.set()
                raise fault.error
            return done

        return called


class TrappedHolder(Trap):
    """A destination that holds its checkpoint, as far as its type tells."""

    def position(self) -> Any:
        return self.__getattr__("position")()

    def rewind(self, to: Position) -> None:
        self.__getattr__("rewind")(to)


class Holder(MemoryDestination):
    """Holds its checkpoint: exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(10_000, 8 * 1024**2, 1024**2, whole_changes=True)
        self.stored: Any = None
        self.stores: list[Position] = []
        self.out_of_band = ""
        self._last: Any = None

    def deliver(self, batch: Batch) -> list[Receipt]:
        given = [event.message_id for event in batch.events]
        if (
            batch.out_of_band == self.out_of_band if batch.out_of_band else (given, batch.upto) == self._last
        ):  # its answer was lost
            return [DELIVERED] * len(batch.events)
        receipts = super().deliver(batch)
        if batch.out_of_band:
            self.out_of_band = batch.out_of_band
        else:
            self.stored = batch.upto
            self._last = (given, batch.upto)
            self.stores.append(batch.upto)
        return receipts

    def position(self) -> Position | None:
        return self.stored  # type: ignore[no-any-return]  # what a plugin says

    def rewind(self, to: Position) -> None:
        self.stored, self._last = to, None


def order(event: Event) -> int:
    return int(event.decoded()["properties"]["id"])


def held(destination: MemoryDestination) -> list[int]:
    return [order(event) for event in destination.events]


COUNTED = ("matched", "delivered", "assumed", "rejected", "suppressed", "replayed", "repeated")


@contextmanager
def staged(folder: Path, mapping: str = MAPPING) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(folder, stack, mapping)


def until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)
