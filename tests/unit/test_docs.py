"""The documentation keeps to the code: what exists is named, and what is named exists."""

from __future__ import annotations

import ast
import contextlib
import importlib
import math
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
import pytest
import yaml
from pydantic import BaseModel

from cdc_tracker.cli import cli
from cdc_tracker.config.config import Config
from cdc_tracker.destinations import registry
from cdc_tracker.mapping import findings, load, load_texts, run_examples
from cdc_tracker.mapping.language.expressions import NAMES
from cdc_tracker.mapping.language.functions import FUNCTIONS
from cdc_tracker.mapping.schema.shape import Defaults, EventShape, Example, FileShape, Property
from cdc_tracker.model import Missing
from cdc_tracker.sources.postgres.values import codec
from cdc_tracker.units import parse_duration, parse_size
from tests import vendors
from tests.bench.targets import TARGETS
from tests.vendors.server import VendorServer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.rglob("*.md"))]
MAPPINGS, OPERATIONS, DESTINATIONS = (
    "\n".join(page.read_text() for page in sorted((DOCS / folder).glob("*.md")))
    for folder in ("analyst", "operator", "destinations")
)
REJECTING = {"_rejection": 2, "Receipt": 1, "Rejection": 0} | dict.fromkeys(
    ("Failure", "MappingFault", "EventRejected", "_Invalid", "_reject", "_simple", "always", "fault", "value"), 0
)
"""Functions that take a reason code, and at which place."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def named(text: str) -> set[str]:
    """Everything between single backticks, and each word of it."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return {word for span in spans for word in (span, *re.findall(r"[A-Za-z_][\w.-]*", span))}


def test_every_function_is_in_the_mapping_reference_with_its_signature_and_meaning() -> None:
    missing = [each.signature for each in FUNCTIONS.values() if f"| `{each.signature}` | {each.doc} |" not in MAPPINGS]
    assert not missing
    section = MAPPINGS.partition("## Functions")[2].partition("## None")[0]
    documented = re.findall(r"^\| `([a-z0-9_]+)\(", section, re.MULTILINE)
    assert sorted(documented) == sorted(FUNCTIONS)


def test_every_name_that_an_expression_knows_is_in_the_mapping_reference() -> None:
    assert set(NAMES) <= named(MAPPINGS) | {"new", "old"}


@pytest.mark.parametrize("shape", [FileShape, Defaults, EventShape, Property, Example])
def test_every_key_of_a_mapping_file_is_in_the_mapping_reference(shape: type[BaseModel]) -> None:
    assert shape.model_fields.keys() <= named(MAPPINGS)


def reason_codes() -> set[str]:
    """As the code makes them: first text arguments of what rejects, texts assigned to `reason` or `code`."""
    files = [
        *(ROOT / "cdc_tracker/mapping").rglob("*.py"),
        ROOT / "cdc_tracker/pipeline/outbox.py",
        ROOT / "cdc_tracker/delivery/jobs/retries.py",
    ]
    files += [*(ROOT / "cdc_tracker/destinations").rglob("*.py"), *(ROOT / "cdc_tracker/delivery").glob("*.py")]
    codes = {code for path in files for node in ast.walk(ast.parse(path.read_text())) for code in _codes(node) if _is_code(code)}
    return codes | {missing.reason for missing in Missing}


def _codes(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        place = REJECTING.get(name, len(node.args))
        code = node.args[place] if place < len(node.args) else None
        if isinstance(code, ast.Constant) and isinstance(code.value, str):
            yield code.value
    elif isinstance(node, ast.Assign):
        target = node.targets[0]
        names = [getattr(each, "id", "") for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
        if names[0] in {"reason", "code"}:
            first = node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value
            chosen = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
            yield from (each.value for each in chosen if isinstance(each, ast.Constant) and isinstance(each.value, str))


def _is_code(text: str) -> bool:
    return re.fullmatch(r"[a-z]+(_[a-z]+)*", text) is not None


def test_every_reason_of_a_rejection_is_in_the_mapping_reference_and_no_other() -> None:
    table = MAPPINGS.partition("\n## Rejections\n")[2].partition("\n# ")[0]
    documented = {code for line in re.findall(r"^\| (`[^|]+)\|", table, re.MULTILINE) for code in re.findall(r"`(\w+)`", line)}
    assert documented == reason_codes()
    assert {"required_missing", "column_missing", "unchanged_toast", "refused", "malformed"} <= documented


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key of the configuration, dotted, with its default; destinations have settings of their own."""
    for name, field in model.model_fields.items():
        inner = [each for each in (field.annotation, *get_args(field.annotation)) if _is_model(each)]
        if inner and name != "destinations":
            yield from keys(inner[0], f"{prefix}{name}.")
        yield f"{prefix}{name}", field.default


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _row(text: str, key: str) -> str:
    found = re.search(rf"^\| `{re.escape(key)}` \|([^|]*)\|", text, re.MULTILINE)
    return found[1].strip(" `") if found else "no row"


def _same_number(row: str, default: object) -> bool:
    """Whether a number, size or duration is documented as it is; anything else passes."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        return True
    for read in (float, parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            if read(row) == default:
                return True
    return False


def _plain(default: object) -> str | None:
    """How a plain default is written; None for durations, sizes and what is made."""
    if isinstance(default, bool):
        return str(default).lower()
    return default if isinstance(default, str) and default else None


def test_every_key_of_the_configuration_is_in_the_operating_guide_with_its_default() -> None:
    for key, default in keys(Config):
        row = _row(OPERATIONS, key)
        parents = {"journal", "journal.retention", "state", "http", "log"}
        assert key in parents or row != "no row", f"{key} is not in the table"
        expected = _plain(default)
        assert expected is None or key in parents or row == expected, f"{key} is {expected!r}, documented as {row!r}"


@pytest.mark.parametrize("kind", registry.names())
def test_every_setting_of_every_destination_is_documented_with_its_default(kind: str) -> None:
    section = DESTINATIONS.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    for name, field in registry.load(kind).Settings.model_fields.items():
        key = field.alias or name
        row = _row(section, key)
        row = _row((DOCS / "destinations/index.md").read_text(), key) if row == "no row" else row
        assert row != "no row", f"{kind}: {key} is not in the table"
        expected = _plain(field.default) if key != "type" else None
        assert expected is None or row == expected, f"{kind}: {key} is {expected!r}, documented as {row!r}"
        assert _same_number(row, field.default), f"{kind}: {key} is {field.default!r}, documented as {row!r}"


PROMISES = DESTINATIONS.partition("## What each promises")[2].partition("\n## ")[0]
"""The table of destinations."""
NEEDED: dict[str, dict[str, Any]] = {
    "jsonl": {"path": "out"},
    "sql": {"url": "sqlite:///events.db"},
    "parquet": {"path": "lake"},
    "warehouse": {"engine": "duckdb", "credentials": "events.duckdb"},
    "segment": {"write_key": "key"},
    "rudderstack": {"write_key": "key", "data_plane": "https://plane.example"},
    "jitsu": {"write_key": "key", "endpoint": "https://jitsu.example"},
    "mixpanel": {"token": "token"},
    "amplitude": {"api_key": "key"},
    "posthog": {"api_key": "key"},
    "ga4": {"measurement_id": "G-1", "api_secret": "secret"},
    "heap": {"app_id": "1"},
    "snowplow": {"collector": "https://collector.example", "app_id": "shop", "vendor": "com.acme"},
    "webhook": {"url": "https://receiver.example", "secret": "whsec_" + "QUJD" * 8},
    "kafka": {"brokers": "localhost:9092", "topic": "events"},
    "redis": {"url": "redis://localhost", "stream": "events"},
    "rabbitmq": {"url": "amqp://localhost"},
    "nats": {"url": "nats://localhost"},
    "stdout": {},
    "memory": {},
}
"""Settings without which a destination cannot be made."""


def promises() -> dict[str, dict[str, str]]:
    """Type → column → cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PROMISES.splitlines() if line.startswith("|")]
    head, _, *body = rows[: next((n for n, row in enumerate(rows) if row[0] == "for"), len(rows))]
    return {row[0].split("`")[1]: dict(zip(head, row, strict=True)) for row in body}


def spoken(seconds: float, never: str) -> str:
    """A window or an age limit, as the tables say it."""
    if seconds in (0.0, math.inf):
        return "none" if seconds == 0.0 else never
    unit, size = next((unit, size) for unit, size in (("day", 259_201), ("hour", 3_600), ("minute", 60)) if seconds >= size)
    number = seconds / (86_400 if unit == "day" else size)
    return f"{number:g} {unit}" + ("s" if number != 1 else "")


MODULES = [each.name for each in pkgutil.iter_modules(vendors.__path__) if each.name != "__main__"]
KITTED = [module for name in MODULES if hasattr(module := importlib.import_module(f"tests.vendors.{name}"), "KITS")]


def opens(module: ModuleType, kind: str) -> bool:
    """Whether the module's kits open this type."""
    assert module.__file__ is not None
    text = Path(module.__file__).read_text()
    return f'made("{kind}"' in text or f"{kind.capitalize()}Destination(" in text


def tried(kind: str) -> set[str]:
    """By what tests.vendors brings up for it: a server of ours, an engine (DuckDB runs within the process), or nothing."""
    found = [module for module in KITTED if opens(module, kind)]
    servers = [value for module in found for value in vars(module).values() if isinstance(value, type)]
    if any(issubclass(each, VendorServer) for each in servers):
        return {"contract server"}
    if any(hasattr(module, "engine") or hasattr(module, "duckdb") for module in found):
        return {"real engine"}
    through_s3 = any(hasattr(module, "S3") for module in found)
    return {"live", "contract server"} if through_s3 else {"live"}


def test_every_destination_has_a_row_in_the_tables_and_no_other() -> None:
    assert promises().keys() == set(registry.names())


@pytest.mark.parametrize("kind", registry.names())
def test_the_tables_of_destinations_say_what_the_code_does(kind: str) -> None:
    row, made = promises()[kind], registry.load(kind)
    assert row["guarantee"] == made.guarantee
    assert row["window"] == spoken(made.dedupe_window, "for ever")
    assert row["age limit"] == spoken(made.age_limit, "none")
    said = set(re.findall(r"live|real engine|contract server", row["tested against"]))
    assert said == tried(kind)
    section = DESTINATIONS.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    untested = re.search(r"\b[Nn]ot tested against", section) is not None
    assert said != {"contract server"} or untested, "the section does not say that no test ran against the vendor"


def test_the_readme_has_every_destination_beside_its_guarantee() -> None:
    rows = re.findall(r"^\| ([\w' ]+) \| (`[^|]+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    listed = {kind: guarantee for guarantee, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert listed == {kind: registry.load(kind).guarantee for kind in registry.names()}


def test_the_benchmark_measures_every_destination() -> None:
    assert {name.partition(" ")[0] for name in TARGETS} | {"jsonl"} == set(registry.names())


@pytest.mark.parametrize("kind", registry.names())
def test_the_table_of_destinations_has_their_limits(kind: str, tmp_path: Path) -> None:
    made = registry.load(kind)
    destination = made("events", made.Settings.model_validate({"type": kind, **NEEDED[kind]}), tmp_path)
    try:
        limits = destination.limits
    finally:
        destination.close()
    cell = promises()[kind]["one call, at most"]
    assert cell.startswith(f"{limits.events:,} events")
    size = re.search(r"(\d+) ([KM])B", cell)
    if size:
        unit = {"K": 1_000, "M": 1_000_000}[size[2]]
        assert limits.batch_bytes / unit == pytest.approx(int(size[1]), rel=0.05)


def mapping_files() -> list[tuple[str, str]]:
    texts = [(str(page.relative_to(ROOT)), text) for page in PAGES for text in blocks(page, "yaml")]
    found = [(name.replace("/", "-"), text) for name, text in texts if text.startswith("version: 1\n")]
    return [(f"{name}-{number}", text) for number, (name, text) in enumerate(found, 1) if "events:" in text]


@pytest.mark.parametrize(("name", "text"), mapping_files(), ids=[name for name, _ in mapping_files()])
def test_every_mapping_file_in_the_documentation_loads_and_its_examples_hold(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yml"
    path.write_text(text)
    failed = [str(result) for result in run_examples(load([path]), codec) if not result.passed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    ("name", "text"), [*mapping_files(), *((path.stem, path.read_text()) for path in sorted((ROOT / "mappings").glob("*.yml")))]
)
def test_no_mapping_of_ours_is_complained_about(name: str, text: str) -> None:
    loaded = load_texts({f"{name}.yml": text})
    assert [*loaded.warnings, *findings(loaded, None, codec)] == []


def test_the_mapping_reference_has_examples_to_run() -> None:
    assert sum(text.count("examples:") for name, text in mapping_files() if name.startswith("docs-analyst-")) >= 8


def test_the_destinations_in_the_documentation_are_settings_that_hold() -> None:
    variables = {"WAREHOUSE_URL": "postgresql://w@host/db", "PARTNER_URL": "https://partner.example/hook"}
    variables |= {"SEGMENT_WRITE_KEY": "key", "PARTNER_SECRET": "whsec_" + "QUJD" * 8}
    found = [block for page in sorted((DOCS / "destinations").glob("*.md")) for block in blocks(page, "yaml")]
    assert len(found) >= 3
    for block in found:
        text = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], block)
        for settings in yaml.safe_load(text)["destinations"].values():
            registry.load(settings["type"]).Settings.model_validate(settings)


def command_lines() -> list[tuple[str, str]]:
    """Whatever looks like a command of ours in the documentation, in the code's hints and in what is packaged."""
    files = [*PAGES, *sorted((ROOT / "sql").glob("*.sql")), *sorted((ROOT / "packaging").iterdir()), ROOT / "docker-compose.yml"]
    files += [path for path in sorted((ROOT / "cdc_tracker").rglob("*.py")) if "demo" not in path.parts]
    found = []
    for path in files:
        text = path.read_text()
        if path.suffix == ".py":  # a hint may run over several literals
            text = "\n".join(re.sub(r"\"\s*\n\s*f?\"", "", text).splitlines())
        for match in re.finditer(r"(?:`|^\$ |^  )(cdc-tracker [a-z][^`\n|#>&…]*)", text, re.MULTILINE):
            found.append((path.name, match[1].strip()))
    return found


@pytest.mark.parametrize(("where", "line"), sorted(set(command_lines())))
def test_every_command_line_names_a_command_and_options_that_exist(where: str, line: str) -> None:
    words = shlex.split(line.replace("'", ""))[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{where}: there is no command {words[0]!r} in {line!r}"
        command, words = found, words[1:]
    known = {option for parameter in (*cli.params, *command.params) for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0].rstrip(".,;:)") in known | {"--help", "-h"}, f"{where}: no option {word} in {line!r}"


def test_there_are_command_lines_to_look_at() -> None:
    assert len(command_lines()) > 60
    named = {where for where, _ in command_lines()}
    assert {"README.md", "running.md", "stops.md", "history.md", "verify.py", "preflight.py"} <= named


def test_every_link_within_the_documentation_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            if target.startswith("https://"):
                continue
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in _anchors(linked), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_metric_is_in_the_operating_guide() -> None:
    source = (ROOT / "cdc_tracker/monitoring/metrics.py").read_text()
    gauges = {f"cdc_tracker_{name}" for name in re.findall(r'_gauge\("(\w+)"', source)}
    counters = {f"cdc_tracker_{name}_total" for name in re.findall(r'_counter\("(\w+)"', source)}
    gauges |= {f"cdc_tracker_source_{name}" for name in re.findall(r'^        \("(\w+_bytes)"', source, re.MULTILINE)}
    families = set(re.findall(r'GaugeMetricFamily\(\s*"(cdc_tracker_\w+)"', source))
    families |= {f"{name}_total" for name in re.findall(r'CounterMetricFamily\(\s*"(cdc_tracker_\w+)"', source)}
    assert len(gauges | counters | families) >= 20
    assert {name for name in gauges | counters | families if name not in OPERATIONS} == set()
    [rules] = [text for text in blocks(DOCS / "operator/monitoring.md", "yaml") if text.startswith("groups:")]
    named = set(re.findall(r"cdc_tracker_\w+", rules))
    assert len(named) >= 8 and named <= gauges | counters | families
    counted = set(re.findall(r"increase\((\w+)", rules))
    assert counted <= counters | families and all(name.endswith("_total") for name in counted)


def test_the_first_screen_shows_a_change_its_mapping_and_its_event() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:70])
    places = [first.find(mark) for mark in ("```sql", "```yaml", "```json", "make demo", "make test")]
    assert all(place >= 0 for place in places)
    assert places == sorted(places)
