"""How much of a table is gone through at once, so that a read stays short and its rows fit into memory."""

from __future__ import annotations

QUICK, SLOW = 0.25, 1.0  # seconds of a read
NARROWEST, WIDEST = 1 / 1024, 64.0  # times the rows wanted


class Pace:
    """Learns from each read. `max_bytes`: of the rows of one read."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._stretch = 1.0  # times the limit
        self._fitting: int | None = None

    def span(self, limit: int) -> int:
        """Rows of the table to go over, of which conditions may leave few."""
        return max(1, int(limit * self._stretch))

    def rows(self, limit: int) -> int:
        """Rows to take: `limit`, or what fits by the width of those read before."""
        return min(limit, self._fitting or limit)

    def took(self, seconds: float, rows: int, size: int, limit: int) -> None:
        """A read went over `span` rows and found these, of `size` bytes."""
        if rows:
            self._fitting = max(1, self._max_bytes * rows // max(size, 1))
        if seconds > SLOW:
            self.slower()
        elif seconds < QUICK and (self._stretch < 1 or rows * 4 < limit):
            self._stretch = min(self._stretch * 2, WIDEST)
        elif self._stretch > 1 and rows * 2 > limit:
            self._stretch /= 2

    def slower(self) -> None:
        """The last read took too long, or was not let end."""
        self._stretch = max(self._stretch / 2, NARROWEST)
