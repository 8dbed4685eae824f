"""The demo's options and exit codes."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import click

from cdc_tracker.demo import DemoFailed
from cdc_tracker.errors import CdcTrackerError

INTERRUPTED = 130


@click.command(name="demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=click.FloatRange(min=3), default=20.0, show_default=True, help="How long the shop is open.")
@click.option("--rate", type=click.FloatRange(min=1), default=200.0, show_default=True, help="Transactions a second.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which sequence of transactions.")
@click.option("--keep", is_flag=True, help="Keep the database's files, too.")
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-data"), show_default=True)
def demo(seconds: float, rate: float, seed: int, keep: bool, folder: Path) -> int:
    """Run cdc-tracker against a shop of its own: an embedded PostgreSQL, real transactions, two SIGKILLs, and a comparison.

    Exit code 1 if an event was lost or doubled.
    """
    from cdc_tracker.demo.scenario import play  # noqa: PLC0415  --help is quick without it

    return 0 if play(folder, seconds=seconds, rate=rate, seed=seed, keep=keep) else 1


def main(arguments: Sequence[str]) -> int:
    """Runs the demo; returns the exit code."""
    # SIGTERM and SIGHUP must end the demo's processes as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        code = demo.main(list(arguments), prog_name="cdc-tracker demo", standalone_mode=False)
    except (DemoFailed, CdcTrackerError) as error:
        click.echo(f"error: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted: the worker and the database have been stopped.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0
