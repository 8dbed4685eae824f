"""The available destinations: the entry points of the group `cdc_tracker.destinations`, of this package and of plugins.

With `dry_run`, a stand-in: events go all the way, but nothing is sent.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

from cdc_tracker.config.nearest import nearest
from cdc_tracker.destinations.base import Destination, DestinationSettings, Guarantee, Limits
from cdc_tracker.errors import ConfigError
from cdc_tracker.model import SUPPRESSED, Batch, Receipt

GROUP = "cdc_tracker.destinations"


def names() -> list[str]:
    """The types that a configuration may name, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load(type_name: str) -> type[Destination]:
    """The class of a type. Raises ConfigError if it is unknown, declared twice, fails to import, or is no destination."""
    found = [point for point in entry_points(group=GROUP) if point.name == type_name]
    if not found:
        raise _unknown(type_name)
    if len({point.value for point in found}) > 1:
        places = " and ".join(sorted(f"{_package(point)} ({point.value})" for point in found))
        raise ConfigError(f"the destination type `{type_name}` is declared twice: by {places}", hint="uninstall one of them")
    declared = f"{_package(found[0])} declares it as {found[0].value}"
    try:
        kind = found[0].load()
    except Exception as error:  # importing runs the package's code
        what = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        hint = _installed_by(found[0]) if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(
            f"the destination type `{type_name}` cannot be loaded: {what}",
            hint=hint or f"{declared}: install what that package needs",
        ) from error
    _adopt_earlier_names(kind)
    if faults := list(_faults(kind)):
        raise ConfigError(f"the destination type `{type_name}` is not a destination: {'; '.join(faults)}", hint=f"{declared}")
    return cast("type[Destination]", kind)


def settings_class(type_name: object) -> type[DestinationSettings]:
    """The settings class of a destination type. Raises ConfigError as `load` does."""
    if not isinstance(type_name, str):
        raise ConfigError(f"is missing; there are: {', '.join(names())}")
    return load(type_name).Settings


def described(settings: DestinationSettings) -> type[Destination]:
    """The class that delivers under these settings. Raises ConfigError as `load` does."""
    kind = load(settings.type)
    choose = getattr(kind, "of", None)
    if choose is None:
        return kind
    chosen = cast("type[Destination]", choose(settings))
    _adopt_earlier_names(chosen)
    return chosen


def dry(kind: type[Destination]) -> type[Destination]:
    """A class with the promises of `kind` that opens and sends nothing, and holds no checkpoint."""

    class DryRun:
        Settings: ClassVar[type[DestinationSettings]] = kind.Settings
        guarantee: ClassVar[Guarantee] = kind.guarantee
        duplicate_handling: ClassVar[str] = kind.duplicate_handling
        dedupe_window: ClassVar[float] = kind.dedupe_window
        age_limit: ClassVar[float] = kind.age_limit
        limits = Limits(events=10_000, batch_bytes=1024**2, event_bytes=1024**2)  # for counting only

        def __init__(self, name: str, settings: Any, base: Path) -> None:
            self._made = (name, settings, base)

        def deliver(self, batch: Batch) -> list[Receipt]:
            return [SUPPRESSED] * len(batch.events)

        def probe(self) -> None:
            """Probes the real destination."""
            with closing(kind(*self._made)) as real:
                real.probe()

        def close(self) -> None:
            pass

    return DryRun


def _adopt_earlier_names(kind: object) -> None:
    """A plugin may declare `repeats`, the earlier name of `duplicate_handling`. The declaration nearest to the class counts."""
    for declared in map(vars, getattr(kind, "__mro__", ())):
        if "duplicate_handling" in declared:
            return
        if "repeats" in declared:
            setattr(kind, "duplicate_handling", declared["repeats"])  # noqa: B010 -- `kind` is not known to be a class
            return


_CALLS: dict[str, tuple[Any, ...]] = {"deliver": (None, None), "probe": (None,), "close": (None,)}


def _faults(kind: object) -> Iterator[str]:
    """Returns the members of base.Destination that a class lacks, as far as they show without an instance."""
    if not isinstance(kind, type):
        yield "it is not a class"
        return
    settings = getattr(kind, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, DestinationSettings)):
        yield "`Settings` must be a subclass of DestinationSettings"
    if getattr(kind, "guarantee", None) not in get_args(Guarantee):
        yield f"`guarantee` must be one of: {', '.join(get_args(Guarantee))}"
    if not isinstance(getattr(kind, "duplicate_handling", None), str):
        yield "`duplicate_handling` must be a clause: what it does with an event that it has already"
    for name in ("dedupe_window", "age_limit"):
        value = getattr(kind, name, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            yield f"`{name}` must be a number of seconds, or math.inf"
    if not _takes(kind, "NAME", None, Path()):
        yield "it is made as CLASS(name, settings, base)"
    for method, arguments in _CALLS.items():
        if not _takes(getattr(kind, method, None), *arguments):
            yield f"it must have `{method}({'batch' if len(arguments) > 1 else ''})`"


def _takes(function: Any, *arguments: Any) -> bool:
    """Whether it can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def _unknown(type_name: str) -> ConfigError:
    known = names()
    meant = nearest(type_name, known, list_all=0)
    return ConfigError(f"there is no destination type `{type_name}`{meant}", hint=f"there are: {', '.join(known)}")


def _installed_by(point: EntryPoint) -> str:
    """The command that installs the client of a type: its package's extra of the same name. Empty if it has none."""
    extras = point.dist.metadata.get_all("Provides-Extra", []) if point.dist else []
    return f"pip install '{_package(point)}[{point.name}]'" if point.name in extras else ""


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "a package"
