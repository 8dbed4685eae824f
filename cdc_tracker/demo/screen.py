"""The demo's output: a live table on a terminal, else a line every two seconds."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cdc_tracker.demo.oracle import Verdict
from cdc_tracker.demo.watch import View
from cdc_tracker.monitoring import DestinationHealth
from cdc_tracker.units import format_size

_LINE_SECONDS = 2.0


class Screen:
    """The output. `with` restores the terminal at its end."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.soft_wrap = True
        self._live: Live | None = None
        self._started = time.monotonic()
        self._next_line = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the live table; its last state stays on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """Prints one line, with the time since the start."""
        self._console.print(Text(f"{time.monotonic() - self._started:5.1f} s  ", "dim") + Text(text, style))

    def show(self, view: View) -> None:
        """Updates the table, or prints a line if the last one is older than two seconds."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(_tables(view), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self.say(_line(view))

    def verdict(self, verdicts: Sequence[Verdict]) -> None:
        """Prints a row for each destination, and an example of each fault."""
        self.close()
        columns = ("destination", "expected", "delivered", "lost", "duplicated", "sent again, dropped there")
        table = _table(columns, left=columns[:1])
        table.title, table.title_justify = "Events that the source calls for, compared with the destinations", "left"
        for one in verdicts:
            numbers = (one.expected, one.delivered, one.lost, one.duplicated, one.repeats)
            table.add_row(one.destination, *(f"{number:,}" for number in numbers), style="" if one.good else "red")
        self._console.print()
        self._console.print(table)
        for one in verdicts:
            torn = [f"{one.torn} events were sent twice under one id with different bytes"] if one.torn else []
            for example in [*one.examples, *torn]:
                self._console.print(Text(f"{one.destination}: {example}", "red"))

    def end(self, verdicts: Sequence[Verdict], files: Mapping[str, Path]) -> None:
        """Prints where the files are, and the sum."""
        self._console.print()
        for what, where in files.items():
            self._console.print(Text(f"{what:<20}{where}"))
        self._console.print()
        self._console.print(Text(sum_line(verdicts), "bold green" if all(one.good for one in verdicts) else "bold red"))


def sum_line(verdicts: Sequence[Verdict]) -> str:
    """`expected N, delivered N, lost 0, duplicated 0` over all destinations; with further counts if they are not 0."""
    parts = [f"{name} {sum(getattr(one, name) for one in verdicts)}" for name in ("expected", "delivered", "lost", "duplicated")]
    parts += [f"{name} {count}" for name in ("unexpected", "torn") if (count := sum(getattr(one, name) for one in verdicts))]
    return ", ".join(parts)


def _line(view: View) -> str:
    destinations = "  ".join(
        f"{one.name} {_delivered(one):,} ({format_size(one.backlog)} behind)" for one in view.health.destinations
    )
    return f"{view.transactions:,} transactions, {view.rows:,} changes | {destinations} | kills {len(view.kills)}"


def _delivered(one: DestinationHealth) -> int:
    return one.totals.now["delivered"] + one.totals.now["assumed"]


def _table(columns: Sequence[str], *, left: Collection[str], width: int | None = None) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", min_width=width)
    return table


def _tables(view: View) -> Group:
    names = [one.name for one in view.health.destinations]
    events = _table(("events", *names), left=("events",), width=10)
    events.columns[0].min_width = 24
    for mapping, counts in sorted(view.mappings.items()):
        events.add_row(mapping, *(f"{counts[name]:,}" for name in names))
    columns = ("destination", "delivered", "behind", "position", "state")
    destinations = _table(columns, left=("destination", "position", "state"), width=10)
    for one in view.health.destinations:
        numbers = f"{_delivered(one):,}", format_size(one.backlog)
        destinations.add_row(one.name, *numbers, str(one.position or "–"), one.state)
    shop = (
        f"the shop: {view.transactions:,} transactions, {view.rows:,} changes, "
        f"{view.rolled_back:,} rolled back; WAL held back {format_size(view.health.capture.retained_bytes or 0)}"
    )
    kills = f"SIGKILL: {', '.join(view.kills) or 'none yet'}"
    return Group(Text(), Text(shop), Text(kills, "yellow" if view.kills else ""), Text(), events, Text(), destinations)
