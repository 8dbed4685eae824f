"""The delivery loop of one destination on real stores: the journal is filled by hand, and the destination is a double."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cdc_tracker.deliver import Delivery
from cdc_tracker.destinations.base import Destination, DestinationSettings
from cdc_tracker.destinations.shaping import Shaping
from cdc_tracker.history.jobs import Jobs
from cdc_tracker.journal import Journal
from cdc_tracker.mapping import Mappings, load_texts
from cdc_tracker.model import START
from cdc_tracker.source.settings import SourceSettings
from cdc_tracker.state import LedgerRow, State
from cdc_tracker.translate import Translator
from tests.unit.history.frames import SPACE, Commit, Order, at, segments

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
        self.state.create_checkpoint("main", "d", START)
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

    def translator(self, mappings: Mappings | None = None, *, only: Any = None) -> Translator:
        given = mappings or load_texts({"events.yml": self.mapping})
        return Translator(given, outbox=None, space=SPACE, database="shop", destination="d", only=only)

    def _take_reload(self) -> bool:
        asked = self._reload.is_set()
        self._reload.clear()
        return asked

    def delivery(self, destination: Destination, stop: Callable[[], bool], abandon: Callable[[], bool]) -> Delivery:
        settings = DestinationSettings.model_validate({"type": "memory", **self.settings})
        shaping = Shaping.of(settings)
        jobs = Jobs(
            settings=SourceSettings.model_validate({"name": "main", "url": "postgresql://nobody"}),
            name="d",
            limits=destination.limits,
            shaping=shaping,
            state=self.state,
            journal=self.journal,
            translators=partial(self.translator),
            keep_ids=settings.sent_ledger is not None,
            abandon=abandon,
        )
        return Delivery(
            source="main",
            name="d",
            destination=destination,
            shaping=shaping,
            dry_run=settings.dry_run,
            translator=self.translator,
            journal=self.journal,
            state=self.state,
            jobs=jobs,
            sent_ledger=settings.sent_ledger,
            stop=stop,
            abandon=abandon,
            reload=self._take_reload,
        )

    @contextmanager
    def delivering(self, destination: Destination, *, drain: bool = True) -> Iterator[None]:
        """In a thread of its own. `drain`: at the end what is in flight is waited for. Raises what the role ends with."""
        stopped, abandoned = threading.Event(), threading.Event()
        raised: list[BaseException] = []
        delivery = self.delivery(destination, stopped.is_set, abandoned.is_set)

        def run() -> None:
            try:
                delivery.run()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
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
        rows = self.state.ledger("main", "d")
        sums = [sum(getattr(row, name) for row in rows) for name in COUNTED]
        return LedgerRow("d", "", 0, *sums)

    def settled(self, number: int) -> bool:
        """So many events are counted, and none is pending."""
        row = self.ledger()
        return row.matched == number and row.pending == 0

    def parked(self) -> list[str]:
        return [letter.reason for letter in self.state.dead_letters("main", limit=10_000)]

    def said(self) -> tuple[str, str]:
        """The role's state, and what troubles it."""
        for role in self.state.roles("main"):
            if role.role == "deliver:d":
                return role.state, str(role.detail["trouble"])
        return "", ""


COUNTED = ("matched", "delivered", "assumed", "rejected", "suppressed", "replayed")


@contextmanager
def staged(folder: Path, mapping: str = MAPPING) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(folder, stack, mapping)


def until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)
