"""The demo: a shop on a real PostgreSQL, real transactions, a worker that is killed, and an oracle that compares the outcome."""


class DemoFailed(Exception):
    """The demo cannot start, or cannot continue."""
