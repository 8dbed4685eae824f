"""Fixtures for tests against real PostgreSQL servers.

`server` runs a test on 15, 16 and 18 (`@pytest.mark.servers("pg15", "pg18")` narrows that); with `plugin` as well it runs for
every output plugin that each of them has. `database` is a fresh one on `server`.

Under `pytest -n 2` every process has servers of its own.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.missing import leave_out
from tests.postgres import NAMES, Database, Server, Servers, ServerUnavailable, fresh_database, plugins
from tests.vendors.kit import Engines

DEAR = {"kafka": "kafka", "mariadb": "mariadb", "mysql": "mariadb", "rabbitmq": "rabbitmq", "bucket": "s3", "s3": "s3"}
"""Word in a test's id → its engine, of those that take seconds to start."""


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background of a shell: what we start would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "invariant(number): one of those in docs/architecture.md; `-m invariant` runs them")
    config.addinivalue_line("markers", "servers(*names): the PostgreSQL servers to run on; all of them without it")


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `-n`: test by test, but those of a dear engine all in one process, which is then the only one to start it."""
    from xdist.scheduler import LoadScopeScheduling

    class TogetherByEngine(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            return next((DEAR[word] for word in re.split(r"[\W_]+", nodeid) if word in DEAR), nodeid)

    return TogetherByEngine(config, log) if config.getoption("dist") == "load" else None


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


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """A command that runs in our process sets it."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


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
        leave_out(str(error))


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
def plugin(request: pytest.FixtureRequest, server: Server) -> str:
    name: str = request.param
    if name == "wal2json" and not server.has_wal2json:
        leave_out(f"{server.name} has no wal2json: apt-get install postgresql-{server.major}-wal2json")
    return name


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    with fresh_database(server) as made:
        yield made
