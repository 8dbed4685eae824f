"""The pages of the documentation as a whole: what they name exists, and their site loads nothing from other hosts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.unit.test_docs import DOCS, PAGES, ROOT


def test_every_path_in_the_documentation_is_in_the_repository() -> None:
    tops = "cdc_tracker|docs|mappings|packaging|sql|tests"
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for path in re.findall(rf"`((?:{tops})/[\w./-]*)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_every_page_is_in_the_index() -> None:
    listed = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", (DOCS / "index.md").read_text())}
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}


def test_the_architecture_has_every_room_on_its_floor() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["cdc_tracker"]]
    floors = {room.strip(): floor for floor, layer in enumerate(layers) for room in layer.split("|")}
    documented = re.findall(r"^\| (\d+) \| `(\w+)` \|", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert {room: int(floor) for floor, room in documented} == {
        room: floor for room, floor in floors.items() if room != "__main__"
    }


def test_the_architecture_has_every_invariant_with_the_tests_that_hold_it() -> None:
    section = (DOCS / "architecture.md").read_text().partition("## Invariants")[2].partition("\n## ")[0]
    numbers = [(int(part.partition(".")[0]), part) for part in section.split("\n- **")[1:]]
    documented = {(number, test) for number, part in numbers for test in re.findall(r"`(tests/[\w/.:]+)`", part)}
    marked = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.invariant":
                    assert isinstance(node, ast.FunctionDef)
                    marked.add((ast.literal_eval(mark.args[0]), f"{path.relative_to(ROOT)}::{node.name}"))
    assert documented == marked
    assert len(numbers) == len({number for number, _ in marked})


def test_the_site_is_built_strictly_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    assert len(pages) > len(list(DOCS.rglob("*.md")))  # 404.html is one, too
    for page, text in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe|source|object|embed)[^>]*?(?:src|data)=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]*?href=[\"']?([^\"' >]+)", text)
        assert loaded
        assert [target for target in loaded if re.match(r"(https?:)?//", target)] == [], page.name
        assert 'class="mermaid"' not in text, f"{page.name}: the theme would load mermaid's script from a CDN"
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", sheet.read_text()), sheet.name


def test_every_message_that_the_operating_guide_explains_is_one_of_the_code() -> None:
    """Between placeholders: `…`, and words in capitals such as NAME."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "cdc_tracker").rglob("*.py")]
    constants = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    said = "\n".join(text for text in constants if isinstance(text, str))
    tables = (DOCS / "operator/monitoring.md").read_text().partition("## Alarms and what to do")[2]
    cells = re.findall(r"^\| (`.+?) \|", tables, re.MULTILINE)
    causes = re.findall(
        r"^\*\*[\w ]+\.\*\* (`[^`]+ [^`]+`(?:, `[^`]+`)?)", (DOCS / "operator/stops.md").read_text(), re.MULTILINE
    )
    messages = [message for text in (*cells, *causes) for message in re.findall(r"`([^`]+)`", text)]
    assert len(messages) > 25
    parts = {part.strip(' :,;.()"') for message in messages for part in re.split(r"…|\b[A-Z]{4,}\b", message)}
    assert sorted(part for part in parts if len(part) > 6 and part not in said) == []
