"""`python -m cdc_tracker` is the command line."""

from cdc_tracker.cli import main

if __name__ == "__main__":
    main()
