"""The fixtures of the conformance suite: it runs for every destination."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_tracker.destinations.base import Destination
from tests.contract.kits import HOLDERS, KITS, NAMES
from tests.postgres import Servers
from tests.vendors.kit import Engines, Kit, Place


@pytest.fixture(params=NAMES)
def kit(request: pytest.FixtureRequest, tmp_path: Path, engines: Engines, servers: Servers) -> Iterator[Kit]:
    """Every destination."""
    with KITS[request.param](Place(tmp_path, engines, servers)) as opened:
        yield opened


@pytest.fixture(params=HOLDERS)
def holder(request: pytest.FixtureRequest, tmp_path: Path, engines: Engines, servers: Servers) -> Iterator[Kit]:
    """Every destination that holds its own checkpoint."""
    with KITS[request.param](Place(tmp_path, engines, servers)) as opened:
        yield opened


@pytest.fixture
def destination(kit: Kit) -> Iterator[Destination]:
    opened = kit.open()
    yield opened
    opened.close()
