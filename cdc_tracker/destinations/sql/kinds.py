"""The kinds of database, by the scheme of the URL."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from cdc_tracker.destinations.sql.database import Database
from cdc_tracker.destinations.sql.mysql import MySql
from cdc_tracker.destinations.sql.postgresql import PostgreSql
from cdc_tracker.destinations.sql.sqlite import Sqlite

_POSTGRESQL, _MYSQL = ("postgresql", "postgres"), ("mysql", "mariadb")


def check(url: str, schema: str | None) -> None:
    """Raises ValueError if the settings are invalid; without the URL, which may contain a password."""
    try:
        address = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise ValueError("`url` is not a database URL such as postgresql://user@host/database") from None
    kind = address.drivername.partition("+")[0]
    if kind not in (*_POSTGRESQL, *_MYSQL, "sqlite"):
        raise ValueError(f"`url`: {kind} is not supported; postgresql://…, mysql://…, mariadb://… and sqlite:///FILE are")
    if kind == "sqlite" and (address.database or ":memory:") == ":memory:":
        raise ValueError("`url`: sqlite needs a file: sqlite:///FILE")
    if kind in _MYSQL and not address.database:
        raise ValueError("`url` names no database: mysql://user@host/database")
    if kind not in _POSTGRESQL and schema:
        raise ValueError("`schema` is for PostgreSQL only")


def opened(url: str, schema: str | None, base: Path) -> Database:
    """The database of a URL that passed `check`. Connects when first needed."""
    address = make_url(url)
    kind = address.drivername.partition("+")[0]
    if kind == "sqlite":
        return Sqlite(address, base)
    return MySql(address) if kind in _MYSQL else PostgreSql(address, schema)
