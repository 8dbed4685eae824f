"""A destination that is a package of somebody else's: the one that the documentation shows, unchanged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc_tracker.destinations import registry
from tests.crash import items
from tests.crash.scene import Scene
from tests.postgres import Database
from tests.vendors.server import Answer, Cut, Request, VendorServer
from tests.worker import until

pytestmark = pytest.mark.servers("pg18")  # no server makes a difference to what comes after the mapping
ROOT = Path(__file__).resolve().parents[2]
TOKEN = "acme-token-of-the-test"


class AcmeServer(VendorServer):
    """Keeps what comes with the right token, and refuses deletes by name."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.repeated = 0
        super().__init__()

    def handle(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401)
        self.take(request)
        sent = json.loads(request.body)
        refused = [
            {"index": index, "code": "no_deletes", "message": "Acme forgets nothing"}
            for index, each in enumerate(sent)
            if each["event"] == "Item Deleted"
        ]
        return Answer(body=json.dumps({"refused": refused}).encode())

    def take(self, request: Request, drop: Callable[[dict[str, Any]], bool] | None = None) -> None:
        with self.lock:
            for each in json.loads(request.body):
                if each["event"] != "Item Deleted":
                    self.repeated += each["messageId"] in self.events
                    self.events.setdefault(each["messageId"], each)


def chapter(language: str) -> str:
    """The only block of a language in the guide's first chapter."""
    text = (ROOT / "docs/developer/plugin.md").read_text().partition("\n## ")[0]
    [block] = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of the guide, installed by pip where this process and workers look for it."""
    source, target = tmp_path / "acme", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(chapter("toml"))
    (source / "cdc_tracker_acme.py").write_text(chapter("python"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True, timeout=120)
    monkeypatch.syspath_prepend(str(target))
    monkeypatch.setenv("PYTHONPATH", str(target))
    yield target
    sys.modules.pop("cdc_tracker_acme", None)


def test_the_readmes_destination_is_installed_configured_and_delivers_with_all_that_the_core_does(
    installed: Path, database: Database, tmp_path: Path, plugin: str
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    with AcmeServer() as server:
        block = yaml.safe_load(chapter("yaml"))["destinations"]["acme"]
        settings = {**block, "url": server.url, "token": "${file:token}", "batch_events": 7, "events": {"except": ["Nothing*"]}}
        scene = Scene(database, tmp_path, plugin, {"acme": settings})
        assert "acme" in registry.names()
        checked = scene.worker.call("check")
        assert "answers; at least once" in checked
        server.answers(Answer(503), Cut(), Cut(taken=True), Answer(413), Answer(400))
        with scene.running():
            items.insert(database, 60, 1)
            database.execute("DELETE FROM shop.items WHERE n % 10 = 0")
            until(lambda: scene.ledger("acme")["matched"] == 66, "everything is counted")
        ledger = scene.ledger("acme")
        assert (ledger["delivered"], ledger["rejected"], ledger["pending"]) == (60, 6, 0)
        assert len(server.events) == 60
        assert server.repeated <= 7  # the batch whose answer was lost
        with scene.state() as state:
            letters = state.dead_letters.page("main", limit=100)
        assert Counter((letter.reason, letter.detail) for letter in letters) == {("no_deletes", "Acme forgets nothing"): 6}
    assert TOKEN not in scene.worker.log + checked


def told_of(folder: Path, settings: str) -> tuple[Path, str]:
    """A configuration with these lines of settings, and what a command says of it. It needs no database to say so."""
    config = folder / "cdc-tracker.yml"
    config.write_text(f"version: 1\nsource: {{url: postgresql://h/d}}\ndestinations:\n  acme:\n{settings}")
    command = [sys.executable, "-m", "cdc_tracker", "--config", str(config), "status"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    return config, " ".join((ended.stdout + ended.stderr).split())


def test_its_settings_are_checked_with_file_line_and_key(installed: Path, tmp_path: Path) -> None:
    config, told = told_of(tmp_path, "    type: acme\n    urll: x\n    token: [secret-text]\n    events: {onyl: [a]}\n")
    assert f"{config}:4: destinations.acme.url: is missing" in told
    assert f"{config}:6: destinations.acme.urll: is not a known key; did you mean 'url'?" in told
    assert f"{config}:7: destinations.acme.token: must be text" in told
    assert f"{config}:8: destinations.acme.events.onyl: is not a known key; did you mean 'only'?" in told
    assert "secret-text" not in told


@pytest.mark.parametrize(
    ("line", "instead", "told"),
    [
        ("    dedupe_window: ClassVar[float] = 0.0", "", "`dedupe_window` must be a number of seconds, or math.inf"),
        ("    age_limit: ClassVar[float] = math.inf", "    age_limit = '7d'", "`age_limit` must be a number of seconds"),
        ('[Guarantee] = "at least once"', '[Guarantee] = "mostly"', "`guarantee` must be one of: exactly once, once"),
        ("def deliver(self, batch: Batch)", "def deliver(self, batch: Batch, upto: int)", "it must have `deliver(batch)`"),
        ("def __init__(self, name: str, settings", "def __init__(self, settings", "it is made as CLASS(name, settings, base)"),
        ("def probe(self)", "def ping(self)", "it must have `probe()`"),
        ("class AcmeSettings(DestinationSettings)", "class AcmeSettings(SecretStr)", "`Settings` must be a subclass of"),
        ("import httpx", "import no_such_client", "cannot be loaded: No module named 'no_such_client'"),
        ("import httpx", "import httpx\nraise OSError('no licence')", "cannot be loaded: OSError: no licence"),
    ],
)
def test_one_that_is_not_a_destination_is_told_when_the_configuration_is_read(
    installed: Path, tmp_path: Path, line: str, instead: str, told: str
) -> None:
    module = installed / "cdc_tracker_acme.py"
    text = module.read_text()
    assert text.count(line) == 1
    module.write_text(text.replace(line, instead))
    config, found = told_of(tmp_path, "    type: acme\n    url: http://127.0.0.1:9\n    token: t\n")
    assert f"{config}:5: destinations.acme.type: the destination type `acme`" in found
    assert told in found
    assert "cdc-tracker-acme declares it as cdc_tracker_acme:AcmeDestination" in found
