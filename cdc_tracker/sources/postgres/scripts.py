"""The files of sql/, which a DBA can read and run; setup and teardown run them, too."""

from __future__ import annotations

from importlib import resources

from psycopg import sql

from cdc_tracker.config.settings import OutboxSettings, SourceSettings
from cdc_tracker.model import split_name

NAMES = ("role", "outbox", "functions", "publication", "teardown")


def script(name: str) -> str:
    """The text of sql/`name`.sql. In the source tree and in the installed package alike."""
    return resources.files("cdc_tracker.sources.postgres").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def outbox(settings: OutboxSettings | None) -> list[str]:
    """The scripts that make the outbox: none where there is to be none, no table in Debezium's layout, which is the user's."""
    if settings is None:
        return []
    if settings.layout == "debezium":
        return [script("functions")]
    return [_renamed(script("outbox"), settings.table), script("functions")]


def teardown(settings: SourceSettings) -> list[str]:
    """What takes the outbox away; slot and publications have functions of their own. Debezium's table stays."""
    statements = []
    if settings.outbox is not None:
        if settings.outbox.layout == "cdc_tracker":
            statements.append(f"DROP TABLE IF EXISTS {_identifier(*split_name(settings.outbox.table))}")
        statements.append("DROP SCHEMA IF EXISTS cdc_tracker CASCADE")
    return statements


def _renamed(text: str, table: str) -> str:
    schema, name = split_name(table)
    text = text.replace("cdc_tracker.outbox", _identifier(schema, name))
    return text.replace("SCHEMA IF NOT EXISTS cdc_tracker;", f"SCHEMA IF NOT EXISTS {_identifier(schema)};")


def _identifier(*names: str) -> str:
    return sql.Identifier(*names).as_string(None)
