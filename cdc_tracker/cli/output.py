"""What commands print: tables and text for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker import units
from cdc_tracker.printable import printable
from cdc_tracker.times import for_display

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cdc_tracker.errors import Problem
    from cdc_tracker.operations.source import Step
    from cdc_tracker.state import RoleRecord

PIPE_WIDTH = 180  # columns of a table that does not go to a terminal
MARKS = {"ok": ("✓", "green"), "warning": ("⚠", "yellow"), "error": ("✗", "red")}

plural = units.plural
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def console() -> Console:
    """A console on standard output as it is now (tests and pipes exchange it)."""
    from rich.console import Console  # noqa: PLC0415  rich takes 60 ms to import

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def say(text: str = "", *, nl: bool = True, err: bool = False, **style: Any) -> None:
    """Print a line. Every command prints with this, and with tables: nothing that came from outside reaches the terminal raw."""
    click.secho(printable(text), nl=nl, err=err, **style)  # noqa: TID251


def warn(text: str, *, err: bool = False) -> None:
    """Print a line that begins with a warning sign."""
    say("⚠ ", fg="yellow", nl=False, err=err)
    say(text, err=err)


def step(done: Step) -> None:
    """Print a step that an operation reports; a warning goes to standard error."""
    if done.part == "warning":
        warn(done.text, err=True)
    else:
        say(f"{done.part:<13} {done.text}")


def emit(value: object) -> None:
    """One JSON document on standard output."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def emit_line(value: object) -> None:
    """One JSON document on one line, for a stream of them."""
    say(line(value))


def line(value: object) -> str:
    """JSON text on one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A plain table. Cells are text, never markup: a value from the database could hold brackets."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else text("" if cell is None else str(cell)) for cell in row))
    return made


def text(given: str, style: str = "") -> Text:
    """For a table or a console: not taken for markup, and without what a terminal obeys."""
    from rich.text import Text  # noqa: PLC0415

    return Text(printable(given), style=style)


def mark(state: str) -> Any:
    """✓, ⚠ or ✗ in its colour."""
    from rich.text import Text  # noqa: PLC0415

    sign, colour = MARKS[state]
    return Text(sign, style=colour)


def moment(time_us: int | None) -> str:
    """Microseconds since the epoch → `2026-01-31 12:00:00Z`."""
    if not time_us:
        return "–"
    return for_display(time_us)


def ask(question: str, *, yes: bool, options: str = "--yes") -> None:
    """Go on, or leave: with exit code 1 where the answer is no, with 2 where nobody is there to give one."""
    if yes:
        return
    try:
        agreed = click.confirm(printable(question))
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise click.UsageError(
            f"there is no terminal to answer on, and nothing was changed. To agree beforehand, give {options}."
        ) from None
    if not agreed:
        raise click.Abort


@contextmanager
def progress(what: str) -> Iterator[Callable[[], None]]:
    """A line on standard error that shows that work goes on; nothing where that is no terminal."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    steps = 0
    with console.status(what) as status:

        def advance() -> None:
            nonlocal steps
            steps += 1
            status.update(f"{what}: {plural(steps, 'segment')} read")

        yield advance


def is_alive(roles: Iterable[RoleRecord], role: str) -> bool:
    """Whether a role is at work."""
    from cdc_tracker.monitoring import reports  # noqa: PLC0415

    return reports(list(roles), role)


def problem(found: Problem) -> dict[str, str]:
    """For JSON."""
    return {
        "severity": found.severity,
        "where": found.where,
        "key": found.key,
        "message": found.message,
        "hint": found.hint,
    }
