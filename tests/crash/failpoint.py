"""cdc-tracker's command line with a fault in it: `python -m tests.crash.failpoint …` takes the same arguments.

FAILPOINT="cdc_tracker.state:State.commit:after:3": the process kills itself with SIGKILL after (or `before`) the third call.
FAILPOINT_SET='{"cdc_tracker.source.segments:MAX_FRAMES": 7}': constants of ours with other values.
A supervisor's roles run with the same faults; FAILPOINT_ROLE="capture" keeps the kill to one of them.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
from operator import attrgetter
from typing import Any

from cdc_tracker import cli, daemon


def install() -> None:
    for name, value in json.loads(os.environ.get("FAILPOINT_SET", "{}")).items():
        module, _, constant = name.partition(":")
        loaded = importlib.import_module(module)
        if not hasattr(loaded, constant):
            raise SystemExit(f"there is no {name}")
        setattr(loaded, constant, value)
    role = os.environ.get("FAILPOINT_ROLE")
    if "FAILPOINT" in os.environ and (role is None or role in sys.argv):
        _kill_at(os.environ["FAILPOINT"])
    _pass_on()


def _kill_at(place: str) -> None:
    module, path, when, number = place.split(":")
    owner_path, _, name = path.rpartition(".")
    loaded: Any = importlib.import_module(module)
    owner = attrgetter(owner_path)(loaded) if owner_path else loaded
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(number) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, called)


def _pass_on() -> None:
    """The supervisor starts its roles through this module, too."""
    original = daemon.Role.__init__

    def made(self: daemon.Role, *arguments: Any) -> None:
        original(self, *arguments)
        self._command[self._command.index("cdc_tracker")] = "tests.crash.failpoint"

    setattr(daemon.Role, "__init__", made)  # noqa: B010  assigned as it is meant, mypy would have it be of one exact signature


if __name__ == "__main__":
    install()
    cli.main()
