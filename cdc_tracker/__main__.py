"""`python -m cdc_tracker` is the command line; the console script `cdc-tracker` comes here, too."""

import sys

from cdc_tracker.worker.signals import hold_for


def main() -> None:
    hold_for(sys.argv[1:])
    from cdc_tracker.cli import main as command_line  # noqa: PLC0415  loading it is what takes time

    command_line()


if __name__ == "__main__":
    main()
