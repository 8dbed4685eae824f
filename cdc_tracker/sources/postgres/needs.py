"""What mappings and destinations use of a table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Need:
    """What is used of one table. `every_change`: a destination takes changes of every operation that the server sends."""

    operations: frozenset[str]  # of insert, update, delete, truncate
    columns: frozenset[str] = frozenset()  # read of `new`
    old_columns: frozenset[str] = frozenset()  # read of `old`
    where: str = field(default="", compare=False)  # file:line of the first mapping that names it
    backfill: bool = False  # a mapping reads the table itself
    every_change: bool = False
    every_column: bool = False


OUTBOX = Need(frozenset({"insert"}), every_column=True)
