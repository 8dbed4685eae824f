"""`setup` makes what capture needs in the source database, in this order: outbox, publications, slot. `teardown` removes it."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import click

from cdc_tracker.cli import Invocation, output
from cdc_tracker.errors import Problem, SourceError
from cdc_tracker.model import table_name

if TYPE_CHECKING:
    from cdc_tracker.config.config import Config
    from cdc_tracker.sources.postgres.needs import Need
    from cdc_tracker.sources.postgres.publication import Desired

SETUP_TIMEOUT = 60.0  # seconds that a statement may take: adding a table to a publication waits for its lock
MODES = {
    "recreate_slot": "Drop the slot, make a new one, and go on from there. `repair` also says what is missed.",
    "new_epoch": "Begin anew with a server that was restored or replaced: new slot, new event ids, empty journal.",
    "adopt": "The state store was lost: go on from the slot as it stands.",
    "accept_gap": "The journal was lost: go on from the slot. `repair` also says how to fill what lies between.",
}


@click.command()
@click.option("--print-sql", is_flag=True, help="Print the SQL for a DBA, and change nothing.")
@click.option("--recreate-slot", "mode", flag_value="recreate_slot", help=MODES["recreate_slot"])
@click.option("--new-epoch", "mode", flag_value="new_epoch", help=MODES["new_epoch"])
@click.option("--adopt", "mode", flag_value="adopt", help=MODES["adopt"])
@click.option("--accept-gap", "mode", flag_value="accept_gap", help=MODES["accept_gap"])
@output.yes
@click.pass_obj
def setup(invocation: Invocation, print_sql: bool, mode: str | None, yes: bool) -> None:
    """Make the outbox, the publication and the slot in the source database.

    May be run again at any time, also while the worker runs: it makes what is missing, puts right what differs, and leaves the
    rest alone. Only tables that mappings name are published.
    """
    from cdc_tracker.cli import changeover, standing, stores  # noqa: PLC0415
    from cdc_tracker.sources.postgres.connection import connect  # noqa: PLC0415
    from cdc_tracker.worker import assemble  # noqa: PLC0415

    config = stores.load_config(invocation)
    needs = assemble.table_needs(config, assemble.load_mappings(config))
    with ExitStack() as stack:
        url = config.source.url.get_secret_value()
        connection = stack.enter_context(closing(connect(url, statement_timeout=SETUP_TIMEOUT)))
        if print_sql:
            output.say("\n".join(sql_for_dba(config, connection, needs)))
            return
        state = stack.enter_context(stores.opened_state(config))
        journal = stack.enter_context(stores.opened_journal(config))
        place = standing.Standing(config, connection, state, journal)
        changes = mode is None and changeover.due(place)
        if changes:
            stack.enter_context(place.alone())
        elif mode is None:
            place.examine()
        else:
            stack.enter_context(place.alone())
            place.confirm(mode, yes=yes)
        make_outbox(config, connection)
        publish(config, connection, needs, anew=mode in ("recreate_slot", "new_epoch"))
        if changes:
            changeover.run(place)
        place.settle(mode)
        place.examine()
    output.say("Ready: `cdc-tracker run`.")


def make_outbox(config: Config, connection: Any) -> None:
    from cdc_tracker.sources.postgres import publication, scripts  # noqa: PLC0415

    outbox = config.source.outbox
    if outbox is None:
        return
    if _may_make(connection, outbox.table):
        publication.apply(connection, scripts.outbox(outbox))
        output.say(f"outbox        {outbox.table}, and the functions cdc_tracker.track() and others")
    else:
        output.say(f"outbox        {outbox.table} is there, and belongs to somebody else: left as it is")


def _may_make(connection: Any, table: str) -> bool:
    """False where a DBA has made it all already and this role has no right to make it again."""
    from cdc_tracker.sources.postgres import catalog  # noqa: PLC0415

    with catalog.translated():
        row = connection.execute(
            "SELECT to_regproc('cdc_tracker.emit') IS NOT NULL, "
            "coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'cdc_tracker'), true)"
        ).fetchone()
    functions, ours = row
    return ours or not functions or table not in catalog.tables(connection, [table])


def wanted(config: Config, connection: Any, needs: dict[str, Need], *, anew: bool = False) -> Desired:
    """What is to be published for the slot's plugin: the one that is there, or, `anew` or where there is none, the next one."""
    from cdc_tracker.sources.postgres import placement, plugins, slot  # noqa: PLC0415

    found = None if anew else slot.inspect(connection, config.source.slot)
    plugin = plugins.choose_next(connection, config.source, needs, found)
    return placement.desired(connection, config.source, needs, plugin)


def publish(config: Config, connection: Any, needs: dict[str, Need], *, anew: bool = False, quiet: bool = False) -> None:
    """Once the outbox is there: it is published, too. Raises SourceError for mapped tables that cannot be captured.

    Publications that exist are put right all the same: as they are, they may make the application's statements fail.
    """
    from cdc_tracker.sources.postgres import publication  # noqa: PLC0415

    found = wanted(config, connection, needs, anew=anew)
    if publication.existing(connection, publication.names(config.source)):
        publication.apply(connection, publication.statements(connection, config.source, found))
        _refuse(list(found.problems))
    else:
        _refuse(list(found.problems))
        publication.apply(connection, publication.statements(connection, config.source, found))
    if quiet:
        return
    for each in found.publications:
        tables = ", ".join(table_name(*name) for name in sorted(each.tables)) or "no table"
        output.say(f"publication   {each.name}: {tables}")
    if not found.publications:
        output.say("publication   none: wal2json reads without one")


def _refuse(problems: list[Problem]) -> None:
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        listed = "\n".join(f"  {problem}" for problem in errors)
        raise SourceError(
            f"Not every mapped table can be captured, so setup goes no further:\n{listed}",
            hint="Mend the tables or the mappings, then run `cdc-tracker setup` again. `cdc-tracker check` tells more.",
        )
    for problem in problems:
        output.say(f"⚠ {problem}", err=True)


def sql_for_dba(config: Config, connection: Any, needs: dict[str, Need]) -> list[str]:
    """What `setup` would run now, as SQL with comments."""
    from cdc_tracker.sources.postgres import plugins, publication, scripts, slot  # noqa: PLC0415

    source = config.source
    found = wanted(config, connection, needs)
    statements = publication.statements(connection, source, found)
    lines = [f"-- Run in the database {connection.info.dbname}, as the owner of the tables or a superuser."]
    lines += [f"-- NOT CAPTURED: {str(problem).replace(chr(10), chr(10) + '-- ')}" for problem in found.problems]
    if source.outbox:
        lines += ["", "-- 1. the outbox", *scripts.outbox(source.outbox)]
    none = "" if found.publications else ": none, wal2json reads without one"
    lines += ["", f"-- 2. the publications{none}", *(f"{each};" for each in statements)]
    lines += ["", "-- 3. the slot, last"]
    if slot.inspect(connection, source.slot):
        return [*lines, f"-- {source.slot} is there already"]
    plugin = plugins.choose(connection, source, needs)
    lines += [f"{slot.create_statement(source.slot, plugin, failover=source.failover)};", ""]
    return [*lines, "-- Then, as cdc-tracker's own role: cdc-tracker setup --adopt"]


@click.command()
@click.option("--drop-outbox", is_flag=True, help="Drop the outbox table and the functions, too.")
@output.yes
@click.pass_obj
def teardown(invocation: Invocation, drop_outbox: bool, yes: bool) -> None:
    """Remove what setup made.

    That is the slot, the publications, and this source's state and journal here. The outbox stays unless --drop-outbox is given.
    Destinations keep what they have.
    """
    from cdc_tracker.cli import standing, stores  # noqa: PLC0415
    from cdc_tracker.sources.postgres import publication, scripts  # noqa: PLC0415
    from cdc_tracker.sources.postgres.connection import connect  # noqa: PLC0415

    config = stores.load_config(invocation)
    source = config.source
    with ExitStack() as stack:
        connection = stack.enter_context(closing(connect(source.url.get_secret_value(), statement_timeout=SETUP_TIMEOUT)))
        state = stack.enter_context(stores.opened_state(config))
        journal = stack.enter_context(stores.opened_journal(config))
        place = standing.Standing(config, connection, state, journal)
        stack.enter_context(place.alone())
        outbox = f", the outbox {source.outbox.table} with its rows" if drop_outbox and source.outbox else ""
        output.ask(
            f"Remove the slot {source.slot}, the publications {' and '.join(publication.names(source))}{outbox}, and the state "
            f"and journal of the source {source.name!r}? {place.undelivered()}",
            yes=yes,
        )
        place.drop_slot()
        removal = publication.removal(connection, source)
        publication.apply(connection, removal + (scripts.teardown(source) if outbox else []))
        output.say(f"publications  {'dropped' if removal else 'none'}{', and the outbox dropped' if outbox else ''}")
        place.forget()
