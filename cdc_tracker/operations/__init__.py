"""What a user can do or ask, as functions that take opened stores and return typed values. Nothing here prints, asks or exits.

The command line calls them, and so can a console or an API. If a user must decide, one function returns what would happen and
another does it. Errors are those of cdc_tracker.errors. A module is imported when it is first used (`operations.ledger`),
so that a command imports only its own.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdc_tracker.operations import (
        backfill,
        check,
        dead_letters,
        diff,
        estimate,
        events,
        examples,
        explain,
        jobs,
        json_schema,
        ledger,
        masking,
        migration,
        named,
        preview,
        publications,
        repair,
        resend,
        scaffold,
        setup,
        snapshot,
        source,
        status,
    )


def __getattr__(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
