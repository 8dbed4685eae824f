"""The fixtures of the conformance suite: it runs for every destination."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdc_tracker.destinations.base import Destination
from tests.contract.kits import HOLDERS, NAMES, Kit, open_kit
from tests.postgres import fresh_database


def _kit(name: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Kit]:
    with ExitStack() as stack:
        server = request.getfixturevalue("pg18") if name.startswith("postgresql") else None
        database = stack.enter_context(fresh_database(server)) if server else None
        yield stack.enter_context(open_kit(name, folder, database))


@pytest.fixture(params=NAMES)
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    """Every destination."""
    yield from _kit(request.param, tmp_path, request)


@pytest.fixture(params=HOLDERS)
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    """Every destination that holds its own checkpoint."""
    yield from _kit(request.param, tmp_path, request)


@pytest.fixture
def destination(kit: Kit) -> Iterator[Destination]:
    opened = kit.open()
    yield opened
    opened.close()
