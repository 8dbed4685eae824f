"""cdc-tracker's command line with a fault in it: `python -m tests.crash.failpoint …` takes the same arguments.

FAILPOINT="cdc_tracker.state:Checkpoints.commit:after:3": the process kills itself after (or `before`) the third call, by SIGKILL.
FAILPOINT_SIGNAL="SIGHUP": that signal, and not SIGKILL.
FAILPOINT_SET='{"cdc_tracker.sources.postgres.segments:MAX_FRAMES": 7}': constants of ours with other values.
A supervisor's roles, forked from it, have the same faults; FAILPOINT_ROLE="capture" keeps the kill to one of them.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
from operator import attrgetter
from typing import Any

from cdc_tracker.__main__ import main
from cdc_tracker.config.config import Config
from cdc_tracker.worker import roles


def install() -> None:
    for name, value in json.loads(os.environ.get("FAILPOINT_SET", "{}")).items():
        module, _, constant = name.partition(":")
        loaded = importlib.import_module(module)
        if not hasattr(loaded, constant):
            raise SystemExit(f"there is no {name}")
        setattr(loaded, constant, value)
    if "FAILPOINT" in os.environ:
        if "FAILPOINT_ROLE" in os.environ:
            _once_it_is(os.environ["FAILPOINT_ROLE"], os.environ["FAILPOINT"])
        else:
            _kill_at(os.environ["FAILPOINT"])


def _kill_at(place: str) -> None:
    module, path, when, number = place.split(":")
    owner_path, _, name = path.rpartition(".")
    loaded: Any = importlib.import_module(module)
    owner = attrgetter(owner_path)(loaded) if owner_path else loaded
    original = getattr(owner, name)
    number_of = signal.Signals[os.environ.get("FAILPOINT_SIGNAL", "SIGKILL")]
    calls = 0

    @functools.wraps(original)
    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(number) and when == "before":
            os.kill(os.getpid(), number_of)
        result = original(*arguments, **named)
        if calls == int(number) and when == "after":
            os.kill(os.getpid(), number_of)
        return result

    setattr(owner, name, called)


def _once_it_is(role: str, place: str) -> None:
    original = roles.run

    def run(config: Config, only: str | None = None, standby: bool = False) -> int:
        if only == role:
            _kill_at(place)
        return original(config, only, standby)

    roles.run = run


if __name__ == "__main__":
    install()
    main()
