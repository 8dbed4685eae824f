"""What a worker answers to probes."""

from __future__ import annotations

import re
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families


def address(log: str) -> str:
    """Where the worker said last that it answers."""
    found: list[str] = re.findall(r"health and metrics.*(http://127\.0\.0\.1:\d+)", log)
    return found[-1]


class Probes:
    """What the worker answers to probes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self._url + path, timeout=20)

    def ready(self) -> bool:
        return self.get("/readyz").status_code == 200

    def problems(self) -> str:
        answer = self.get("/readyz")
        body: dict[str, Any] = answer.json()
        assert (answer.status_code == 200) == body["ready"] == (not body["problems"])
        return "\n".join(body["problems"])

    def metrics(self) -> dict[tuple[str, ...], float]:
        """(name, label values …) → value."""
        answer = self.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        return {
            (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
