"""What mappings and destinations use of a table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Need:
    """`every_change`: a destination takes those of each operation, as far as the server gives them."""

    operations: frozenset[str]  # of insert, update, delete, truncate
    columns: frozenset[str] = frozenset()  # that `new` is asked for
    old_columns: frozenset[str] = frozenset()  # that `old` is asked for
    where: str = field(default="", compare=False)  # file:line of the first mapping that names it
    backfill: bool = False  # a mapping reads the table itself
    every_change: bool = False
    every_column: bool = False


OUTBOX = Need(frozenset({"insert"}), every_column=True)
