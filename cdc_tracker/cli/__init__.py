"""The command line. This file knows every command's name and one line about it; a command's code is imported when it runs."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from cdc_tracker import __version__
from cdc_tracker.cli.invocation import Invocation
from cdc_tracker.config.nearest import nearest
from cdc_tracker.errors import NEEDS_A_PERSON, CdcTrackerError, InvalidRequest

__all__ = ["FOUND_PROBLEMS", "Invocation", "cli", "main", "report"]

FOUND_PROBLEMS = 1
_FAULT = "This is a fault in cdc-tracker. Nothing was skipped: a run continues from its checkpoints. --debug shows where."


class _Entry(NamedTuple):
    module: str
    help: str


_COMMANDS = {
    "init": _Entry("init", "Write cdc-tracker.yml and a starting mapping file for each table."),
    "sql": _Entry("sql", "Print a SQL script for a DBA, such as the role that the worker connects as."),
    "check": _Entry("check", "Report everything that would stop a run, and how to correct it."),
    "schema": _Entry("schema", "Print the JSON Schema of the configuration and of mapping files, for editors."),
    "setup": _Entry("setup", "Create the outbox, the publications and the slot in the source database."),
    "run": _Entry("run", "Capture and deliver until stopped."),
    "status": _Entry("status", "Show the slot, lag, checkpoints, dead letters and roles."),
    "preview": _Entry("preview", "Show live changes and the events they become, without delivering."),
    "events": _Entry("events", "Show recent events beside their rows, from the journal or as they come."),
    "explain": _Entry("explain", "Show why events came or did not: what became of each change of a mapping's table."),
    "test-mappings": _Entry("test_mappings", "Check the mapping files and run their examples. Needs no database."),
    "diff": _Entry("diff", "Show what other mappings would have made of a past range, without sending."),
    "rewind": _Entry("resend", "Move a destination's checkpoint back to send history again."),
    "replay": _Entry("resend", "Send a range of the journal again, beside the live stream."),
    "backfill": _Entry("backfill", "Send the events of a table's present rows, for history older than the journal."),
    "jobs": _Entry("jobs", "List, show, follow, pause, resume or cancel replays and backfills."),
    "dead-letters": _Entry("dead_letters", "List, show, retry or discard what was parked."),
    "ledger": _Entry("ledger", "Show counts of matched, delivered, rejected and pending events."),
    "demo": _Entry("demo", "Run the whole thing against a database of its own, with crashes."),
    "repair": _Entry("repair", "Repair a lost slot, a gap or publications, and report what was missed."),
    "teardown": _Entry("setup", "Remove what setup created."),
}


class _Lazy(click.Group):
    """Imports a command's module only to run it or to show its own help. Errors become a paragraph and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"cdc_tracker.cli.{entry.module}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS:
            ctx.fail(f"there is no command {args[0]!r}{nearest(args[0], list(_COMMANDS), list_all=0) or '; see --help'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except InvalidRequest as error:
            raise click.UsageError(str(error)) from None
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            report(
                error if isinstance(error, CdcTrackerError) else CdcTrackerError(f"{type(error).__name__}: {error}", hint=_FAULT)
            )
        raise click.exceptions.Exit(NEEDS_A_PERSON)


def report(error: CdcTrackerError) -> None:
    """Print the error on standard error: what happened, then what to do."""
    from cdc_tracker.cli import output  # noqa: PLC0415

    output.say("error: ", fg="red", bold=True, nl=False, err=True)
    output.say(f"{error}\n{error.hint}" if error.hint else str(error), err=True)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file (default: $CDC_TRACKER_CONFIG, else ./cdc-tracker.yml).",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="cdc-tracker")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, debug: bool) -> None:
    """Row changes of a PostgreSQL database become product-analytics events, each delivered once.

    Exit codes: 0 fine, 1 found problems, 2 wrong usage, 3 stopped by an error that needs a person.
    """
    ctx.obj = Invocation(config, debug)


def main() -> None:
    """The command line."""
    # Imported objects stay: collecting cycles among them, again and again and at the end, took a third of a short command.
    gc.set_threshold(100_000, 10, 10)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal without these characters
    try:
        cli(prog_name="cdc-tracker")
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has gone: the interpreter must not complain, either
        sys.exit(0)
