"""Fixtures for tests against real PostgreSQL servers.

`server` runs a test on 15, 16 and 18 (`@pytest.mark.servers("pg15", "pg18")` narrows that); with `plugin` as well it runs for
every output plugin that each of them has. `database` is a fresh one on `server`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.postgres import NAMES, Database, Server, Servers, ServerUnavailable, fresh_database, plugins
from tests.vendors.kit import Engines


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "invariant(number): one of the thirteen that every part must keep; `-m invariant` runs them"
    )
    config.addinivalue_line("markers", "servers(*names): the PostgreSQL servers to run on; all of them without it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("servers")
    names = marker.args if marker else NAMES
    if "plugin" in metafunc.fixturenames:
        pairs = [(name, plugin) for name in names for plugin in plugins(name)]
        ids = [f"{name}-{plugin}" for name, plugin in pairs]
        metafunc.parametrize(("server", "plugin"), pairs, indirect=True, ids=ids, scope="session")
    else:
        metafunc.parametrize("server", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    running = Servers()
    try:
        yield running
    finally:
        running.remove()


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    running = Engines()
    try:
        yield running
    finally:
        running.close()


def _get(servers: Servers, name: str) -> Server:
    try:
        return servers.get(name)
    except ServerUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def pg15(servers: Servers) -> Server:
    return _get(servers, "pg15")


@pytest.fixture(scope="session")
def pg16(servers: Servers) -> Server:
    return _get(servers, "pg16")


@pytest.fixture(scope="session")
def pg18(servers: Servers) -> Server:
    return _get(servers, "pg18")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return _get(servers, request.param)


@pytest.fixture(scope="session")
def plugin(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    with fresh_database(server) as made:
        yield made
