"""The files that put the worker on a machine: parsed, and held against what they refer to."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]


def test_a_wheel_holds_what_is_no_python_as_well(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("cdc_tracker", "sql"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cdc_tracker").rglob("*") if path.suffix in {".py", ".typed"}}
    scripts = {f"cdc_tracker/sources/postgres/sql/{path.name}" for path in (ROOT / "sql").iterdir()}
    assert ours | scripts <= held
    assert "cdc_tracker/py.typed" in held  # that type checkers look at us
    assert any(name.endswith("/LICENSE") for name in held)


def test_the_constraints_pin_every_dependency_to_a_version_that_the_project_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        Requirement(text) for group in (project["dependencies"], *project["optional-dependencies"].values()) for text in group
    ]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+!]+", line)] == []  # no address and no path
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for requirement in asked:
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)], prereleases=True), requirement


def test_hooks_before_a_commit_are_the_projects_own_tools() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        assert hook["language"] == "system"
        assert (Path(sys.executable).parent / Path(hook["entry"].split()[0]).name).exists()


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_every_file_that_compose_mounts_is_in_the_repository() -> None:
    compose = _compose()
    mounted = [volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]]
    for source in mounted:
        assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], source


def test_every_service_that_compose_waits_for_can_become_what_it_waits_for() -> None:
    services = _compose()["services"]
    for service in services.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "test" in services[name]["healthcheck"]
            else:
                assert services[name]["restart"] == "no", "a service that should end must not be started again"


def test_compose_builds_images_that_the_dockerfile_has() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert {service["build"]["target"] for service in _compose()["services"].values()} <= targets


def test_every_variable_of_compose_is_in_the_example_of_the_environment() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    shown = {
        line.partition("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line and line[0] != "#"
    }
    assert used == shown


def test_the_plugin_is_of_the_servers_version() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    server = re.search(r"^FROM postgres:(\d+)", dockerfile, re.MULTILINE)
    plugin = re.search(r"postgresql-(\d+)-wal2json", dockerfile)
    assert server is not None
    assert plugin is not None
    assert server[1] == plugin[1]


def test_the_image_gets_what_it_is_built_from_and_runs_as_a_plain_user() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    assert copied
    assert set(copied) <= set(let_in)
    worker = dockerfile.split(" AS worker\n")[1]
    assert re.search(r"^USER (?!root)\w+$", worker, re.MULTILINE)
    assert "/readyz" in worker


def test_the_configuration_in_compose_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from cdc_tracker.worker import assemble

    for key, value in _compose()["services"]["worker"]["environment"].items():
        monkeypatch.setenv(key, re.sub(r"\$\{\w+(:[^}]*)?\}", "secret", value))
    monkeypatch.setenv("CDC_TRACKER_DATA_DIR", "/var/lib/cdc-tracker")
    loaded = assemble.load_config(ROOT / "packaging" / "compose.yml")
    assert loaded.source.url.get_secret_value() == "postgresql://postgres:secret@postgres:5432/shop"
    assert str(loaded.data) == "/var/lib/cdc-tracker"
    assert list(loaded.destinations) == ["events"]
    assert loaded.http.host == "0.0.0.0"  # docker-compose.yml binds it to 127.0.0.1 outside


def test_the_service_unit_can_be_stopped_within_its_time_and_keeps_its_data() -> None:
    from cdc_tracker.config.config import Config

    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    unit.read(ROOT / "packaging" / "cdc-tracker.service")
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > Config.model_fields["drain_timeout"].default
    assert service["RestartPreventExitStatus"] == "3"
    assert service["StateDirectory"] == "cdc-tracker"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
def test_systemd_accepts_the_service_unit(tmp_path: Path) -> None:
    # systemd looks for the program: one that is there stands in for ours.
    text = (ROOT / "packaging" / "cdc-tracker.service").read_text().replace("/opt/cdc-tracker/bin/cdc-tracker", "/bin/true")
    unit = tmp_path / "cdc-tracker.service"
    unit.write_text(text.replace("User=cdc-tracker\nGroup=cdc-tracker\n", ""))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])


def test_ci_is_a_script_that_bash_reads_and_can_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_ci_stops_at_a_failure_and_ends_with_the_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert "export CI=true" in next(line for line in lines if line.startswith("export"))
    assert re.match(r"timeout --kill-after=60 \d+ make test\b", lines[-1])  # nothing after the summary, and no run for ever


def test_ci_installs_the_servers_that_the_tests_ask_for() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    texts = "".join(path.read_text() for path in [ROOT / "tests/postgres.py", *(ROOT / "tests/vendors").glob("*.py")])
    asked = {name for line in re.findall(r"apt-get install ([\w -]+)\"", texts) for name in line.split()}
    asked |= {package for _, package in re.findall(r"program\(\"([\w-]+)\", \"([\w-]+)\"\)", texts)}
    asked -= {"erlang-base"}  # comes with rabbitmq-server
    assert {"postgresql-15", "mariadb-server", "nats-server", "maven"} <= asked
    assert {"default-jre-headless" if "jre" in name else name for name in asked} <= set(script.split())


def _make(*words: str) -> subprocess.CompletedProcess[str]:
    """What make would do. These tests may themselves run below `make test`, whose options must not come through."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "ARGS"))}
    return subprocess.run(["make", "-n", *words], check=False, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not on this machine")
@pytest.mark.parametrize(
    "target", ["demo", "test", "lint", "types", "imports", "check", "bench", "soak", "docs", "constraints", "clean"]
)
def test_make_knows_the_target(target: str) -> None:
    done = _make(target)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not on this machine")
def test_make_hands_its_options_to_the_demo() -> None:
    done = _make("demo", "SECONDS=8", "RATE=50", "ARGS=--keep")
    assert done.stdout.splitlines()[-1].endswith("cdc-tracker demo --seconds 8 --rate 50 --keep")


@pytest.mark.skipif(not shutil.which("make"), reason="make is not on this machine")
def test_make_runs_the_tests_in_as_many_processes_as_it_is_told() -> None:
    assert _make("test", "ARGS=-n0 -k word").stdout.splitlines()[-1].endswith("-n0 -k word")
    assert re.search(r"pytest -n [2-4] ", _make("test").stdout)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not on this machine")
def test_a_soak_kills_as_often_as_it_is_told() -> None:
    commands = [line for line in _make("soak", "KILLS=5").stdout.splitlines() if "soak" in line]
    assert [line.split()[2:] for line in commands] == [[f"tests.{suite}.soak", "--kills", "5"] for suite in ("crash", "contract")]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not on this machine")
def test_the_demo_does_not_wait_for_what_only_developers_need() -> None:
    assert "[dev]" not in _make("-B", "demo").stdout
    assert "[demo]" in _make("-B", "demo").stdout
