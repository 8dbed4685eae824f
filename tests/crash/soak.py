"""`python -m tests.crash.soak --kills 200`: a worker under load that is killed again and again, each role at random moments.

At the end every destination is compared with what the source committed: nothing lost; nothing doubled where a destination is
exactly once; in the Segment server only repeated ids; the ledger equal to the source's count.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.crash import items
from tests.crash.scene import JSONL, Scene, segment, sql
from tests.postgres import NAMES, Database, fresh_database, launch, plugins
from tests.vendors.segment import SegmentServer
from tests.worker import end, roles, until

SUPERVISOR = "supervisor"


@dataclass
class Outcome:
    committed: int
    kills: Counter[str]
    repeated: int  # ids that the Segment server was sent again

    def __str__(self) -> str:
        killed = ", ".join(f"{role} {number}" for role, number in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({killed}); expected {self.committed}, delivered {self.committed} to each of jsonl, sql "
            f"and segment: lost 0, duplicated 0; {self.repeated} repeated ids at segment"
        )


class Soak:
    """Kills until it has killed often enough. Everything random comes from `seed`."""

    def __init__(self, scene: Scene, kills: int, seed: int) -> None:
        self._scene = scene
        self._wanted = kills
        self._seed = seed
        self._random = random.Random(seed)
        self._kills: Counter[str] = Counter()

    def run(self) -> Outcome:
        worker = self._scene.worker
        process = worker.start()
        try:
            with items.writing(self._scene.database, seed=self._seed, pause=0.02):
                while self._kills.total() < self._wanted:
                    assert process.poll() is None, f"the supervisor ended by itself:\n{worker.log[-3000:]}"
                    time.sleep(self._random.choice((0.0, 0.1, 0.3, self._random.random() * 1.5)))
                    if self._kill(process):
                        process = worker.start()
            self._scene.await_all(seconds=180)
        finally:
            end(process)
        self._scene.check()
        committed = sum(map(len, items.truth(self._scene.database).values()))
        return Outcome(committed, self._kills, self._scene.segment.repeated if self._scene.segment else 0)

    def _kill(self, supervisor: subprocess.Popen[bytes]) -> bool:
        """Kill a process; True where it was the supervisor, and all of them with it."""
        if self._random.random() < 0.2:
            end(supervisor, signal.SIGKILL)
            self._kills[SUPERVISOR] += 1
            return True
        until(lambda: bool(roles(supervisor.pid)), "a role is started")
        alive = roles(supervisor.pid)
        victim = self._random.choice(sorted(alive))
        with contextlib.suppress(ProcessLookupError):
            os.kill(alive[victim], signal.SIGKILL)
            self._kills[victim] += 1
        return False


def soak(database: Database, plugin: str, kills: int, seed: int, folder: Path) -> Outcome:
    """A worker of its own on the database. Raises AssertionError where anything is lost, doubled or not counted."""
    with SegmentServer(keep_requests=False) as vendor:
        destinations = {"events": JSONL, "sql": sql(folder), "segment": segment(vendor)}
        scene = Scene(database, folder, plugin, destinations)
        scene.segment = vendor
        return Soak(scene, kills, seed).run()


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a worker under load, and compare what arrived with what was committed.")
    parser.add_argument("--kills", type=int, default=200, help="of all servers and plugins together")
    parser.add_argument("--server", choices=NAMES, action="append", help="may be given again; all of them without it")
    parser.add_argument("--plugin", choices=("wal2json", "pgoutput"))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    pairs = [(name, plugin) for name in given.server or NAMES for plugin in plugins(name) if given.plugin in (None, plugin)]
    if not pairs:
        parser.error("none of these servers has that plugin")
    print(f"seed {given.seed}", flush=True)
    for number, (name, plugin) in enumerate(pairs):
        kills = given.kills // len(pairs) + (number < given.kills % len(pairs))
        with launch(name) as server, fresh_database(server) as database, TemporaryDirectory(prefix="soak-") as folder:
            outcome = soak(database, plugin, kills, given.seed + number, Path(folder))
        print(f"{name} {plugin}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
