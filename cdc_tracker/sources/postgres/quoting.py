"""Names and texts in SQL, where a statement is composed as text."""

from __future__ import annotations

from psycopg import sql


def quoted(*names: str) -> str:
    """An identifier as SQL writes it, always in quotes: `"shop"."orders"`."""
    return sql.Identifier(*names).as_string(None)


def literal(text: str) -> str:
    """A string as replication commands write it: they do not know the `E'…'` of sql.Literal."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"
