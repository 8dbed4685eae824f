"""Names in SQL."""

from __future__ import annotations

from psycopg import sql


def quoted(*names: str) -> str:
    """An identifier as SQL writes it, always in quotes: `"shop"."orders"`."""
    return sql.Identifier(*names).as_string(None)
