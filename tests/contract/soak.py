"""`python -m tests.contract.soak --kills 100`: every destination that is exactly once, killed again and again, then counted."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.contract.kills import Standing, killed, standing
from tests.contract.kits import HOLDERS, KITS
from tests.postgres import Servers, ServerUnavailable
from tests.vendors.kit import Engines, Place

LOOK = 10  # kills after which is counted, and at the end


def soak(place: Place, name: str, kills: int) -> tuple[Standing, int]:
    """What is there after the kills, or where it was first wrong; and after how many kills."""
    with KITS[name](place) as kit:
        for number in range(1, kills + 1):
            killed(kit, random.randrange(5))
            if number % LOOK == 0 or number == kills:
                found = standing(kit)
                if not found.right:
                    break
    return found, number


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill every exactly-once destination under load, and count what is there.")
    parser.add_argument("--kills", type=int, default=100, help="of each destination")
    parser.add_argument("--only", choices=HOLDERS, action="append", help="may be given again; all of them without it")
    given = parser.parse_args()
    engines, servers, wrong = Engines(), Servers(), 0
    print(f"{'destination':20} {'kills':>6} {'events':>8} {'lost':>6} {'doubled':>8}", flush=True)
    try:
        for name in given.only or HOLDERS:
            try:
                with TemporaryDirectory(prefix="soak-") as folder:
                    found, kills = soak(Place(Path(folder), engines, servers), name, given.kills)
            except (pytest.skip.Exception, ServerUnavailable) as error:
                print(f"{name:20} left out: {error}", flush=True)
                continue
            wrong += not found.right
            print(f"{name:20} {kills:6} {found.expected:8} {found.lost:6} {found.doubled:8}", flush=True)
    finally:
        engines.close()
        servers.remove()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
