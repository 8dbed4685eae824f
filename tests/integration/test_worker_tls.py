"""TLS to the source: a connection that is cut at any point is made again, a certificate that does not fit stops the start."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import authority
from tests.crash import items
from tests.crash.proxy import Proxy
from tests.crash.scene import JSONL, Scene
from tests.postgres import Database, Server, fresh_database, launch
from tests.worker import until

POINTS = (1, 600, 1500, 1900, 2500, 4000)
"""Bytes of a new connection after which it is cut: in the answer to the SSL request, the handshake, the log-in, the stream."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The authority's own certificate, and the folder with one that it made."""
    folder = tmp_path_factory.mktemp("tls")
    return authority(folder).ca, folder


@pytest.fixture(scope="module")
def secured(certificate: tuple[Path, Path]) -> Iterator[Server]:
    with launch("pg15") as own:
        _install(own, certificate[1])
        own.configure(ssl="on", ssl_cert_file=f"{own.root}/server.pem", ssl_key_file=f"{own.root}/key.pem", restart=True)
        yield own


def _install(server: Server, folder: Path) -> None:
    owner = server.data.stat()
    for name in ("server.pem", "key.pem"):
        target = server.root / name
        target.write_bytes((folder / name).read_bytes())
        target.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(target, owner.st_uid, owner.st_gid)


@pytest.fixture
def behind_tls(secured: Server) -> Iterator[Database]:
    with fresh_database(secured) as made:
        yield made


def _url(database: Database, port: int, ca: Path) -> str:
    url = database.url_as("postgres", tcp=True, sslmode="verify-full", sslrootcert=str(ca))
    return url.replace(f":{database.server.port}/", f":{port}/")


@pytest.mark.parametrize("hard", [False, True], ids=["FIN", "RST"])
def test_a_connection_over_tls_that_is_cut_anywhere_is_made_again(
    behind_tls: Database, tmp_path: Path, certificate: tuple[Path, Path], hard: bool
) -> None:
    with Proxy(behind_tls.server.port) as proxy:
        scene = Scene(behind_tls, tmp_path, "auto", {"events": JSONL}, url=_url(behind_tls, proxy.port, certificate[0]))
        scene.tune(**{"capture.loop__BUSY": 60.0, "capture.loop__HEALTHY": 0.0})
        with scene.running() as process:
            scene.await_all()
            assert behind_tls.value("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)") is True
            for point in random.Random(7).sample(POINTS, len(POINTS)):
                proxy.cut_after(point, hard=hard)
                cuts = proxy.cuts
                proxy.cut(hard=hard)
                until(lambda cuts=cuts: proxy.cuts > cuts + 1, f"it has tried twice, cut after {point} bytes")  # type: ignore[misc]
                assert process.poll() is None, scene.worker.log
                proxy.cut_after(None)
                items.insert(behind_tls, 3)
            scene.await_all()
            assert process.poll() is None
            assert "role ended" not in scene.worker.log
    scene.check()


def test_a_certificate_of_another_authority_stops_the_start(
    behind_tls: Database, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    other = authority(tmp_path).ca
    scene = Scene(behind_tls, tmp_path, "auto", {"events": JSONL})
    scene.worker.environment = {"CDC_TRACKER_SOURCE__URL": _url(behind_tls, behind_tls.server.port, other)}
    ended = scene.worker.ended("run")
    assert ended.returncode == 3, ended.stderr
    assert "certificate verify failed" in ended.stderr and "check sslmode, sslrootcert" in ended.stderr


def test_a_certificate_that_does_not_fit_any_more_is_told_and_waited_for(
    behind_tls: Database, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """It was right when the worker began: whoever changed it mends it, and the worker goes on by itself."""
    server, ca = behind_tls.server, certificate[0]
    (tmp_path / "other").mkdir()
    authority(tmp_path / "other")
    scene = Scene(behind_tls, tmp_path, "auto", {"events": JSONL}, url=_url(behind_tls, server.port, ca))
    try:
        with scene.running() as process:
            scene.await_all()
            _install(server, tmp_path / "other")
            server.restart()
            until(lambda: "certificate verify failed" in scene.worker.log, "it says what is wrong")
            assert process.poll() is None
            _install(server, certificate[1])
            server.restart()
            scene.await_all()
            assert process.poll() is None
    finally:
        _install(server, certificate[1])
        server.configure()
    scene.check()
