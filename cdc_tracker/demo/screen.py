"""The demo's output: a live table on a terminal, else a line every two seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cdc_tracker.demo.oracle import Verdict
from cdc_tracker.demo.watch import View
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
        table = Table(
            title="Events that the source calls for, compared with the destinations",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        table.add_column("destination")
        for column in ("expected", "delivered", "lost", "duplicated", "sent again, dropped there"):
            table.add_column(column, justify="right")
        for one in verdicts:
            numbers = (one.expected, one.delivered, one.lost, one.duplicated, one.repeats)
            table.add_row(one.destination, *(f"{number:,}" for number in numbers), style="" if one.good else "red")
        self._console.print()
        self._console.print(table)
        for one in verdicts:
            for example in _wrong(one):
                self._console.print(Text(f"{one.destination}: {example}", "red"))

    def end(self, verdicts: Sequence[Verdict], files: Sequence[tuple[str, str]]) -> None:
        self._console.print()
        for what, where in files:
            self._console.print(Text(f"{what:<20}{where}"))
        self._console.print()
        self._console.print(Text(sum_line(verdicts), "bold green" if all(one.good for one in verdicts) else "bold red"))


def sum_line(verdicts: Sequence[Verdict]) -> str:
    """`expected N, delivered N, lost 0, duplicated 0` over all destinations; with further counts if they are not 0."""
    parts = [f"{name} {sum(getattr(one, name) for one in verdicts)}" for name in ("expected", "delivered", "lost", "duplicated")]
    parts += [f"{name} {count}" for name in ("unexpected", "torn") if (count := sum(getattr(one, name) for one in verdicts))]
    return ", ".join(parts)


def _wrong(verdict: Verdict) -> list[str]:
    wrong = list(verdict.examples)
    if verdict.torn:
        wrong.append(f"{verdict.torn} events were sent twice under one id with different bytes")
    return wrong


def _line(view: View) -> str:
    destinations = "  ".join(f"{one.name} {one.delivered:,} ({format_size(one.behind)} behind)" for one in view.destinations)
    return f"{view.transactions:,} transactions, {view.rows:,} changes | {destinations} | kills {len(view.kills)}"


def _tables(view: View) -> Group:
    names = [one.name for one in view.destinations]
    events = Table(box=None, pad_edge=False)
    events.add_column("events", min_width=24)
    for name in names:
        events.add_column(name, justify="right", min_width=10)
    for mapping, counts in sorted(view.mappings.items()):
        events.add_row(mapping, *(f"{counts[name]:,}" for name in names))
    destinations = Table(box=None, pad_edge=False)
    for column, justify in (
        ("destination", "left"),
        ("delivered", "right"),
        ("behind", "right"),
        ("position", "left"),
        ("state", "left"),
    ):
        destinations.add_column(column, justify=justify, min_width=10)  # type: ignore[arg-type]
    for one in view.destinations:
        destinations.add_row(one.name, f"{one.delivered:,}", format_size(one.behind), str(one.position or "–"), one.state)
    shop = (
        f"the shop: {view.transactions:,} transactions, {view.rows:,} changes, "
        f"{view.rolled_back:,} rolled back; WAL held back {format_size(view.retained)}"
    )
    kills = f"SIGKILL: {', '.join(view.kills) or 'none yet'}"
    return Group(Text(), Text(shop), Text(kills, "yellow" if view.kills else ""), Text(), events, Text(), destinations)
