"""References in the configuration: `${VAR}`, `${VAR:-default}`, `${file:PATH}`; and CDC_TRACKER_ variables that override keys.

Docker and Kubernetes pass secrets as files. A value that came from a variable or a file is never shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from cdc_tracker.config.nearest import nearest
from cdc_tracker.config.yaml_file import Document, Loc, dotted
from cdc_tracker.errors import ConfigError, Problem

ENV_PREFIX = "CDC_TRACKER_"
FROM_FILE = "_FILE"  # suffix of a variable that names a file with the value
MOST = 1_000_000  # bytes of a file with a value
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:file:([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


def variable(loc: Sequence[str | int]) -> str:
    """The environment variable that overrides the key at `loc`."""
    return ENV_PREFIX + "__".join(str(part).upper() for part in loc)


def overriding(loc: Sequence[str | int]) -> str | None:
    """The variable in the environment that overrides the key at `loc`: with the value, or with the name of a file."""
    name = variable(loc)
    return next((each for each in (name, name + FROM_FILE) if each in os.environ), None)


def unknown_variables(known: Sequence[str]) -> Iterator[Problem]:
    """Warnings about environment variables that begin as those of cdc-tracker do, and override nothing.

    `known`: Config.variables(). What Kubernetes sets for a service of our name is left out.
    """
    tops = {name.partition("__")[0] for name in known}
    for name in sorted(os.environ):
        plain = name.upper().removesuffix(FROM_FILE)
        if not name.upper().startswith(ENV_PREFIX) or plain in {*known, f"{ENV_PREFIX}CONFIG"}:
            continue
        below = "__" in plain and plain.partition("__")[0] in tops  # of such keys, validation says which it does not know
        if not below and not _OF_KUBERNETES.search(plain) and not os.environ[name].startswith(("tcp://", "udp://")):
            yield Problem(name, "", f"overrides no key{nearest(plain, known, list_all=0)}", "Unset it, or correct it.", "warning")


class Resolved:
    """`values`: a document's values with every reference replaced, and with values of files that `…_FILE` variables name.

    `places`: where a value was replaced. `secrets`: the values that came from files.
    """

    def __init__(self, document: Document, keys: Sequence[str], *, absent: str | None = None) -> None:
        """`keys`: the top-level keys that variables may override. Raises ConfigError, which names every problem and its place.

        `absent` stands for what a variable that is not set, or a file that cannot be read, would give; None: it is a problem.
        """
        self._absent = absent
        self.places: set[Loc] = set()
        self.secrets: set[str] = set()
        self._document = document
        self._problems: list[Problem] = []
        self.values: dict[str, Any] = {key: self._walk(value, (key,)) for key, value in document.value.items()}
        for name in sorted(os.environ):
            loc = tuple(name.removeprefix(ENV_PREFIX).removesuffix(FROM_FILE).lower().split("__"))
            if name == variable(loc) + FROM_FILE and loc[0] in keys and variable(loc) not in os.environ:
                self._override(loc, name)
        if self._problems:
            raise ConfigError("\n".join(str(problem) for problem in self._problems))

    def _walk(self, value: object, loc: Loc) -> object:
        if isinstance(value, dict):
            return {key: self._walk(inner, (*loc, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._walk(inner, (*loc, index)) for index, inner in enumerate(value)]
        if isinstance(value, str) and "${" in value and overriding(loc) is None:
            self.places.add(loc)
            return _REFERENCE.sub(lambda found: self._replaced(found, loc), value)
        return value

    def _override(self, loc: tuple[str, ...], name: str) -> None:
        try:
            value = self._read(os.environ[name])
        except ConfigError as error:
            self._problems.append(Problem(name, dotted(loc), str(error), error.hint))
            return
        around = self.values
        for key in loc[:-1]:
            if not isinstance(around.get(key), dict):
                around[key] = {}
            around = around[key]
        around[loc[-1]] = value
        self.places.add(loc)

    def _replaced(self, found: re.Match[str], loc: Loc) -> str:
        try:
            return self._referenced(found)
        except ConfigError as error:
            if self._absent is not None and (found[1] or found[2]):
                return self._absent
            self._problems.append(Problem(self._document.where(loc), dotted(loc), str(error), error.hint))
            return ""

    def _referenced(self, found: re.Match[str]) -> str:
        path, name, default = found.groups()
        if found[0] == "$${":
            return "${"
        if path is not None:
            return self._read(path)
        if name is None:
            raise ConfigError(
                "has a `${` that is not a reference",
                hint="Write ${VAR}, ${VAR:-default} or ${file:PATH}, and $${ for a plain ${.",
            )
        if name in os.environ and (os.environ[name] or default is None):
            return os.environ[name]
        if default is None:
            raise ConfigError(f"the environment variable {name} is not set", hint=f"Set {name}, or write ${{{name}:-default}}.")
        return str(default)

    def _read(self, name: str) -> str:
        """The content of a file without the newline at its end. A relative path starts from the document's folder."""
        path = self._document.path.parent / name
        try:
            with path.open("rb") as file:
                raw = file.read(MOST + 1)
            text = raw.decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise ConfigError(f"the file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"the file {path} is not UTF-8 text") from None
        if not name or not text or len(raw) > MOST:
            raise ConfigError(f"the file {path} is {'empty' if not text else f'larger than {MOST // 1_000_000} MB'}")
        self.secrets.add(text)
        return text
