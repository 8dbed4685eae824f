"""The files of sql/, for a DBA to read and run; setup and teardown run them as well."""

from __future__ import annotations

from importlib import resources

from cdc_tracker.config.settings import OutboxSettings, SourceSettings
from cdc_tracker.model import split_name
from cdc_tracker.sources.postgres.quoting import quoted

NAMES = ("role", "outbox", "functions", "publication", "teardown")


def script(name: str) -> str:
    """The text of sql/`name`.sql, from the source tree or the installed package."""
    return resources.files("cdc_tracker.sources.postgres").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def outbox(settings: OutboxSettings | None) -> list[str]:
    """The scripts that create the outbox and its functions; none if there is no outbox. Debezium's table is the user's own."""
    if settings is None:
        return []
    if settings.layout == "debezium":
        return [script("functions")]
    return [_renamed(script("outbox"), settings.table), script("functions")]


def teardown(settings: SourceSettings) -> list[str]:
    """Statements that drop the outbox and its functions. Debezium's table stays; slot and publications are dropped elsewhere."""
    statements = []
    if settings.outbox is not None:
        if settings.outbox.layout == "cdc_tracker":
            statements.append(f"DROP TABLE IF EXISTS {quoted(*split_name(settings.outbox.table))}")
        statements.append("DROP SCHEMA IF EXISTS cdc_tracker CASCADE")
    return statements


def _renamed(text: str, table: str) -> str:
    schema, name = split_name(table)
    text = text.replace("cdc_tracker.outbox", quoted(schema, name))
    return text.replace("SCHEMA IF NOT EXISTS cdc_tracker;", f"SCHEMA IF NOT EXISTS {quoted(schema)};")
