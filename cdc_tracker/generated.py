"""Functions generated as source text: compiled here, so that tracebacks and debuggers show their lines."""

from __future__ import annotations

import itertools
import keyword
import linecache
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_MAX_NAME = 60


class Names:
    """Identifiers of one generated function: ASCII, no keywords, each given out once."""

    def __init__(self, taken: Iterable[str]) -> None:
        """`taken`: the names that the function's own code uses."""
        self._taken = {*keyword.kwlist, *taken}

    def copy(self) -> Names:
        return Names(self._taken)

    def unique(self, text: str) -> str:
        """An identifier that reads as `text`: `old.status` becomes `old_status`, the second time `old_status_2`."""
        word = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")[:_MAX_NAME]
        word = word if word.isidentifier() else f"_{word}"
        name, number = word, 1
        while name in self._taken:
            number += 1
            name = f"{word}_{number}"
        self._taken.add(name)
        return name


class _Lines(Sequence[str]):
    """A source's lines, split when they are read: kept as one text they take half the memory."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source.splitlines())

    def __getitem__(self, index: Any) -> Any:
        return self._source.splitlines(keepends=True)[index]


def define(name: str, source: str, namespace: dict[str, Any], title: str) -> Callable[..., Any]:
    """Compiles `source`, which defines the function `name`, with `namespace` as its globals, and returns the function.

    Its file name is `<title>`, with a number if other functions have that title. linecache has the source for as long as the
    function exists: reloading does not accumulate entries.
    """
    entry: Any = (len(source), None, _Lines(source), title)
    titles = itertools.chain([f"<{title}>"], (f"<{title} #{number}>" for number in itertools.count(2)))
    file = next(each for each in titles if linecache.cache.setdefault(each, entry) is entry)
    exec(compile(source, file, "exec", dont_inherit=True), namespace)  # noqa: S102  callers keep foreign text out of `source`
    function: Callable[..., Any] = namespace.pop(name)
    weakref.finalize(function, linecache.cache.pop, file, None).atexit = False
    return function
