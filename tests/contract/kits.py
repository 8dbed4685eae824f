"""Every kit there is: the conformance suite runs over all of them."""

from __future__ import annotations

import importlib
import pkgutil

from tests import vendors
from tests.vendors.kit import OpenKit

KITS: dict[str, OpenKit] = {}
HOLDERS: list[str] = []  # of the destinations that hold their own checkpoint
TRANSLATING: list[str] = []  # of those that turn an event into the vendor's own shape
NAMING: list[str] = []  # of those whose vendor names single events that it refuses
DEFERRING: list[str] = []  # of those whose vendor puts single events off
HTTP: list[str] = []  # of those whose vendor is a server of ours, so that each of its answers can be played
for _found in pkgutil.iter_modules(vendors.__path__):
    if _found.name != "__main__":
        _module = importlib.import_module(f"tests.vendors.{_found.name}")
        KITS |= getattr(_module, "KITS", {})
        TRANSLATING += getattr(_module, "TRANSLATING", ())
        HOLDERS += getattr(_module, "HOLDERS", ())
        NAMING += getattr(_module, "NAMING", ())
        DEFERRING += getattr(_module, "DEFERRING", ())
        HTTP += getattr(_module, "KITS", ()) if hasattr(_module, "serve") else ()
NAMES = sorted(KITS)
