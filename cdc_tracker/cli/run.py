"""`run`: the worker in the foreground."""

from __future__ import annotations

import re

import click

from cdc_tracker.cli import Invocation


def _role(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or re.fullmatch(r"capture|deliver:[a-z0-9_-]{1,40}", value):
        return value
    raise click.BadParameter("write capture, or deliver:NAME with the name of a destination")


@click.command()
@click.option("--only", callback=_role, metavar="ROLE", help="Run one role: capture, or deliver:NAME.")
@click.option("--standby", is_flag=True, help="Wait while another worker holds the slot, and take over when it is gone.")
@click.pass_obj
def run(invocation: Invocation, only: str | None, standby: bool) -> None:
    """Capture and deliver until stopped.

    SIGTERM and Ctrl-C drain within `drain_timeout`; SIGHUP loads the mappings again. It may be killed at any moment: the next
    run continues from the checkpoints.
    """
    from cdc_tracker.worker import roles  # noqa: PLC0415
    from cdc_tracker.worker.assemble import load_config  # noqa: PLC0415

    raise SystemExit(roles.run(load_config(invocation.config_path), only=only, standby=standby))
