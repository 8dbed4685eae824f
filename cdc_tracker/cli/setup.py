"""`setup` makes what capture needs in the source database; `teardown` removes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from cdc_tracker import operations
from cdc_tracker.cli import Invocation, output

if TYPE_CHECKING:
    from cdc_tracker.operations.setup import Mode


def _mode(name: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(f"--{name}", "mode", flag_value=name.replace("-", "_"), help=text)


@click.command()
@click.option("--print-sql", is_flag=True, help="Print the SQL for a DBA, and change nothing.")
@_mode("recreate-slot", "Drop the slot, create a new one and continue from there. `repair` also says what is missed.")
@_mode("new-epoch", "Start over with a server that was restored or replaced: new slot, new event ids, empty journal.")
@_mode("adopt", "The state store was lost: continue from the slot as it is.")
@_mode("accept-gap", "The journal was lost: continue from the slot. `repair` also says how to fill the gap.")
@output.yes
@click.pass_obj
def setup(invocation: Invocation, print_sql: bool, mode: Mode | None, yes: bool) -> None:
    """Create the outbox, the publications and the slot in the source database.

    May be run again at any time, also while the worker runs: it creates what is missing, corrects what differs, and leaves the
    rest as it is. Only tables that mappings name are published.
    """
    if print_sql:
        output.say(operations.publications.setup_script(invocation.config))
        return
    with operations.source.opened(invocation.config, output.step) as source:
        planned = operations.setup.plan(source, mode)
        if planned.consequence:
            output.ask(f"{planned.consequence} Continue?", yes=yes)
        operations.setup.apply(source, planned)
    output.say("Ready: `cdc-tracker run`.")


@click.command()
@click.option("--drop-outbox", is_flag=True, help="Drop the outbox table and the functions, too.")
@output.yes
@click.pass_obj
def teardown(invocation: Invocation, drop_outbox: bool, yes: bool) -> None:
    """Remove what setup created.

    That is the slot, the publications, and this source's state and journal here. The outbox stays unless --drop-outbox is given.
    Destinations keep what they have.
    """
    with operations.source.opened(invocation.config, output.step, mapped=False) as source:
        consequence = operations.setup.teardown_consequence(source, drop_outbox=drop_outbox)
        output.ask(f"{consequence} Continue?", yes=yes)
        operations.setup.teardown(source, drop_outbox=drop_outbox)
