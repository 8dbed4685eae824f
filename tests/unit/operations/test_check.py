"""`check` as a function: whatever fails is a finding, and the others are still looked at."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cdc_tracker.operations.check import check
from cdc_tracker.worker.assemble import load_config

CONFIG = """\
version: 1
source: {{url: postgresql://nobody@127.0.0.1:1/nowhere}}
data_dir: {data}
destinations:
  files: {{type: jsonl, path: out/events.jsonl}}
  away: {{type: webhook, url: "http://127.0.0.1:1/", secret: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw]}}
http: {{port: {port}}}
"""


@pytest.mark.parametrize("data", ["data", "cdc-tracker.yml/data"])
def test_nothing_that_fails_ends_the_check(tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = tmp_path / "cdc-tracker.yml"
        path.write_text(CONFIG.format(data=data, port=taken.getsockname()[1]))
        mapping = tmp_path / "mappings" / "a.yml"
        mapping.parent.mkdir()
        mapping.write_text("version: 1\nevents:\n  - {name: A, tabel: shop.a}\n")
        found = list(check(load_config(path)))
    stores = {"data_dir": "ok", "state": "ok", "journal": "ok"} if data == "data" else {"data_dir": "error"}
    assert {each.where: each.severity for each in found} == {
        "configuration": "ok",
        f"{mapping}:3": "error",
        **stores,
        "source.url": "error",
        "destinations.files": "ok",
        "destinations.away": "error",
        "http": "error",
    }
    assert "did you mean 'table'" in " ".join(map(str, found))
    assert capsys.readouterr() == ("", "")
