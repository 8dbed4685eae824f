"""`demo`: runs cdc_tracker.demo."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from cdc_tracker.cli import FOUND_PROBLEMS, output, report
from cdc_tracker.errors import CdcTrackerError

INTERRUPTED = 130


@click.command(context_settings={"max_content_width": 80})
@click.option("--seconds", type=click.FloatRange(min=3), default=20.0, show_default=True, help="How long the shop is open.")
@click.option("--rate", type=click.FloatRange(min=1), default=200.0, show_default=True, help="Transactions a second.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which sequence of transactions.")
@click.option("--keep", is_flag=True, help="Keep the database's files, too.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-data"), show_default=True)
def demo(seconds: float, rate: float, seed: int, keep: bool, folder: Path) -> None:
    """Run cdc-tracker against a shop of its own: an embedded PostgreSQL, real transactions, two SIGKILLs, and a comparison.

    Exit code 1 if an event was lost or doubled.
    """
    from cdc_tracker.demo.scenario import play  # noqa: PLC0415  --help is quick without it

    # SIGTERM and SIGHUP must end the demo's processes as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        good = play(folder, seconds=seconds, rate=rate, seed=seed, keep=keep)
    except CdcTrackerError as error:
        report(error)
        good = False
    except KeyboardInterrupt:
        output.say("Interrupted: the worker and the database have been stopped.", err=True)
        raise SystemExit(INTERRUPTED) from None
    if not good:
        raise SystemExit(FOUND_PROBLEMS)
