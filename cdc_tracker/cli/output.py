"""How commands print and ask: text and tables, JSON, questions, progress."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker.printable import printable
from cdc_tracker.units import plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cdc_tracker.errors import Problem
    from cdc_tracker.operations.source import Step

PIPE_WIDTH = 180  # columns of a table that does not go to a terminal
MARKS = {"ok": ("✓", "green"), "warning": ("⚠", "yellow"), "error": ("✗", "red")}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def console() -> Console:
    """A console on the present standard output (tests replace it)."""
    from rich.console import Console  # noqa: PLC0415  rich takes 60 ms to import

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def say(text: str = "", *, nl: bool = True, err: bool = False, **style: Any) -> None:
    """Print a line. Commands print with this and with tables only: no control character from outside reaches the terminal."""
    click.secho(printable(text), nl=nl, err=err, **style)  # noqa: TID251


def warn(text: str, *, err: bool = False) -> None:
    """Print a line that begins with a warning sign."""
    say("⚠ ", fg="yellow", nl=False, err=err)
    say(text, err=err)


def finding(problem: Problem) -> None:
    """Print a finding: its mark, then its place, what is wrong and how to fix it."""
    sign, colour = MARKS[problem.severity]
    say(f"{sign} ", fg=colour, nl=False)
    say(str(problem))


def verdict(problems: Iterable[Problem]) -> None:
    """Print whether a check has passed, as its last line: `Check passed: 0 errors, 3 warnings`."""
    severities = [problem.severity for problem in problems]
    errors, warnings = severities.count("error"), severities.count("warning")
    passed, colour = ("failed", "red") if errors else ("passed", "green")
    say(f"Check {passed}: {plural(errors, 'error')}, {plural(warnings, 'warning')}", fg=colour)


def step(done: Step) -> None:
    """Print a step that an operation reports; a warning goes to standard error."""
    if done.part == "warning":
        warn(done.text, err=True)
    else:
        say(f"{done.part:<13} {done.text}")


def emit(value: object) -> None:
    """Print one JSON document."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def line(value: object) -> str:
    """JSON text on one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def fields(value: object, *names: str) -> dict[str, Any]:
    """The named attributes, for JSON."""
    return {name: getattr(value, name) for name in names}


def finite(seconds: float) -> float | None:
    """For JSON, which has no infinity: None then."""
    return None if math.isinf(seconds) else seconds


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A plain table. Cells are text, never markup: a value from the database may contain brackets."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        found.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        found.add_row(*(cell if isinstance(cell, Text) else text("" if cell is None else str(cell)) for cell in row))
    return found


def text(given: str, style: str = "") -> Text:
    """Text for a table or a console: not parsed as markup, and without characters that control a terminal."""
    from rich.text import Text  # noqa: PLC0415

    return Text(printable(given), style=style)


def mark(state: str) -> Any:
    """✓, ⚠ or ✗ in its colour."""
    from rich.text import Text  # noqa: PLC0415

    sign, colour = MARKS[state]
    return Text(sign, style=colour)


def ask(question: str, *, yes: bool, options: str = "--yes") -> None:
    """Continue, or end: with exit code 1 if the answer is no, with 2 if there is no terminal to answer on."""
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


def agree(question: str, twice: str, *, yes: bool, duplicates: bool) -> bool:
    """Ask, and return whether duplicates are accepted. `twice`: the question about them, "" if there would be none.

    `yes` alone does not accept duplicates: the operation then refuses them.
    """
    if twice and not yes and not duplicates:
        ask(twice, yes=False, options="--yes and --yes-duplicates")
        duplicates = True
    ask(question, yes=yes)
    return duplicates


@contextmanager
def progress(what: str) -> Iterator[Callable[[], None]]:
    """Shows progress on standard error, if that is a terminal. Yields a function to call after each segment."""
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
