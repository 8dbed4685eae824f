"""Which destinations there are: the entry points of the group `cdc_tracker.destinations`, ours and those of other packages."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from cdc_tracker.destinations.base import Destination
from cdc_tracker.errors import ConfigError

GROUP = "cdc_tracker.destinations"


def names() -> list[str]:
    """The types that a configuration may name, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load(type_name: str) -> type[Destination]:
    """The class of a destination type. Raises ConfigError: unknown, declared twice, or its package cannot be imported."""
    found = [point for point in entry_points(group=GROUP) if point.name == type_name]
    if not found:
        raise _unknown(type_name)
    if len({point.value for point in found}) > 1:
        places = " and ".join(sorted(f"{_package(point)} ({point.value})" for point in found))
        raise ConfigError(f"the destination type `{type_name}` is declared twice: by {places}", hint="uninstall one of them")
    try:
        return cast("type[Destination]", found[0].load())
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the destination type `{type_name}` cannot be loaded: {error}",
            hint=f"{_package(found[0])} declares it as {found[0].value}: install what that package needs",
        ) from error


def _unknown(type_name: str) -> ConfigError:
    known = names()
    near = difflib.get_close_matches(type_name, known, n=1, cutoff=0.5)
    meant = f": did you mean `{near[0]}`?" if near else ""
    return ConfigError(f"there is no destination type `{type_name}`{meant}", hint=f"there are: {', '.join(known)}")


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "a package"
