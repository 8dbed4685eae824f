"""Runs a vendor's server until interrupted: `python -m tests.vendors segment`."""

from __future__ import annotations

import argparse
import importlib
import threading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vendor", help="a module of tests.vendors that has `serve(port)`")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    with importlib.import_module(f"tests.vendors.{given.vendor}").serve(given.port) as server:
        print(server.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
