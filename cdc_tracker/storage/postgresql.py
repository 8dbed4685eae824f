"""PostgreSQL as a store: its sessions survive settings that are meant for applications."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

_ENDLESS = ["idle_session_timeout", "idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout"]


def engine(url: URL, noun: str, lock_seconds: int) -> Engine:
    """An engine whose commits are durable. `noun`: the store's, for the name of its sessions."""
    defaults = {
        "application_name": f"cdc-tracker {noun.removeprefix('the ')}",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,  # milliseconds: else a dead network is noticed after a quarter of an hour
        "client_encoding": "UTF8",  # overrides PGCLIENTENCODING
    }
    arguments = {key: value for key, value in defaults.items() if key not in url.query}
    made = create_engine(url, hide_parameters=True, connect_args=arguments)

    @event.listens_for(made, "connect")
    def prepare(connection: Any, record: object) -> None:
        # What is confirmed to the source must survive a crash of this server.
        connection.autocommit = True
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.execute(f"SET lock_timeout = '{lock_seconds}s'")
        # Timeouts of the role or database, meant for applications, must not end a session that holds a lock, or a migration.
        connection.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)", [_ENDLESS])
        connection.autocommit = False

    return made
