"""What a project that writes mappings can use in its own tests.

def test_our_mappings() -> None:
    assert_examples("mappings/")
"""

from __future__ import annotations

from pathlib import Path

from cdc_tracker.destinations.memory import MemoryDestination
from cdc_tracker.mapping import load, run_examples
from cdc_tracker.sources.postgres.values import codec

__all__ = ["MemoryDestination", "assert_examples"]


def assert_examples(*paths: str | Path) -> int:
    """Loads the mapping files and folders, and runs every example in them. Returns how many ran. Needs no database.

    Raises MappingError if a file is invalid, AssertionError with expected and got if an example fails, or if there is
    none: a test that checks nothing should not pass.
    """
    results = run_examples(load([Path(path) for path in paths]), codec)
    failed = [str(result) for result in results if not result.passed]
    if failed:
        raise AssertionError("\n\n".join(failed))
    if not results:
        raise AssertionError(f"no mapping in {', '.join(map(str, paths))} has an example")
    return len(results)
