"""The demo shop: a real PostgreSQL, real transactions, a worker that is killed on the way, and an oracle that counts."""

from __future__ import annotations

from collections.abc import Sequence


class DemoFailed(Exception):
    """The demo cannot start, or cannot continue."""


def main(arguments: Sequence[str]) -> int:
    """Run the demo with these options; the exit code."""
    from cdc_tracker.demo import command  # noqa: PLC0415 -- who wants only the oracle need not open the state store

    return command.main(arguments)
