"""Settings for the events and properties that a destination gets, and for their names. pipeline/ acts on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from cdc_tracker.patterns import searcher

TYPES = ("track", "identify", "group", "alias", "page", "screen")
OF_TYPE = "type:"
CONTEXT = "context"

Text = Annotated[str, StringConstraints(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]


class _Selection(BaseModel):
    """`only` and `except` exclude each other: with both, a name in neither would be undecided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    only: Texts | None = None
    leave_out: Texts | None = Field(default=None, alias="except")
    rename: dict[Text, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> _Selection:
        if self.only is not None and self.leave_out is not None:
            raise ValueError("takes `only` or `except`, not both")
        return self


class EventSelection(_Selection):
    """Names as mappings declare them, `*` for any run of characters; `type:identify` and the like for all calls of a type."""

    @model_validator(mode="after")
    def _makes_sense(self) -> EventSelection:
        for pattern in [*(self.only or ()), *(self.leave_out or ())]:
            if pattern.startswith(OF_TYPE) and pattern.removeprefix(OF_TYPE) not in TYPES:
                raise ValueError(f"there is no call type in {pattern!r}; there are: {', '.join(TYPES)}")
        passes = self.passes()
        for name in self.rename:
            if "*" in name or name.startswith(OF_TYPE):
                raise ValueError(f"rename takes whole names of events, not {name!r}")
            if not any(passes(kind, name) for kind in ("track", "page", "screen")):
                raise ValueError(f"{name!r} is both renamed and left out")
        return self

    def passes(self) -> Callable[[str, str], bool]:
        """Returns a function of a call's type and name: whether the destination gets it. Without a name the type decides."""
        listed = _matching(self.only or self.leave_out or ())
        wanted = self.only is not None
        return lambda kind, name: listed(kind, name) is wanted


class PropertySelection(_Selection):
    """Dotted paths in properties and traits; a path goes into each object of a list. `except` also takes `context.KEY`."""

    @model_validator(mode="after")
    def _makes_sense(self) -> PropertySelection:
        for path in [*(self.only or ()), *(self.leave_out or ()), *self.rename]:
            if not all(path.split(".")):
                raise ValueError(f"{path!r} is not a path such as `email` or `address.city`")
            if path == CONTEXT:
                raise ValueError("keys of the context are named one by one, as `context.ip`")
        for path in [*(self.only or ()), *self.rename]:
            if path.startswith(f"{CONTEXT}."):
                raise ValueError(f"{path!r}: only `except` can name keys of the context")
        self._check_renames()
        return self

    def _check_renames(self) -> None:
        for path, name in self.rename.items():
            if "." in name:
                raise ValueError(
                    f"{path!r} cannot become {name!r}: a property stays where it is; write its new name without what is before it"
                )
            if not self._goes(path):
                raise ValueError(f"{path!r} is both renamed and left out")
        becoming = Counter((path.rpartition(".")[0], name) for path, name in self.rename.items())
        for (_, name), number in becoming.items():
            if number > 1:
                raise ValueError(f"{number} properties would become {name!r}")

    def _goes(self, path: str) -> bool:
        if self.only is not None:
            return any(_within(path, each) or _within(each, path) for each in self.only)
        return not any(_within(path, each) for each in self.leave_out or ())


def _within(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}.")


def _matching(patterns: Iterable[str]) -> Callable[[str, str], bool]:
    """Returns a function of a call's type and name: whether either is listed."""
    types = {pattern.removeprefix(OF_TYPE) for pattern in patterns if pattern.startswith(OF_TYPE)}
    names = [re.escape(pattern).replace(r"\*", ".*") for pattern in patterns if not pattern.startswith(OF_TYPE)]
    matches = searcher(rf"(?s)\A(?:{'|'.join(names)})\z")
    return lambda kind, name: kind in types or (bool(name) and matches(name))
