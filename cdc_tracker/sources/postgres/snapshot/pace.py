"""How much of a table one read covers, so that it stays short and its rows fit into memory."""

from __future__ import annotations

QUICK, SLOW = 0.25, 1.0  # seconds of a read
NARROWEST, WIDEST = 1 / 1024, 64.0  # of the span, as multiples of the rows wanted


class Pace:
    """Adapts to the duration and size of each read. `max_bytes` bounds the rows of one read."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._stretch = 1.0  # times the limit
        self._fitting: int | None = None

    def span(self, limit: int) -> int:
        """Rows of the table to scan; conditions may leave few of them."""
        return max(1, int(limit * self._stretch))

    def rows(self, limit: int) -> int:
        """Rows to read: `limit`, or as many as fit, by the width of those read before."""
        return min(limit, self._fitting or limit)

    def took(self, seconds: float, rows: int, size: int, limit: int) -> None:
        """Records a read of `span` rows that took `seconds` and returned `rows` rows of `size` bytes."""
        if rows:
            self._fitting = max(1, self._max_bytes * rows // max(size, 1))
        if seconds > SLOW:
            self.slower()
        elif seconds < QUICK and (self._stretch < 1 or rows * 4 < limit):
            self._stretch = min(self._stretch * 2, WIDEST)
        elif self._stretch > 1 and rows * 2 > limit:
            self._stretch /= 2

    def slower(self) -> None:
        """Halves the span: the last read took too long or was cancelled."""
        self._stretch = max(self._stretch / 2, NARROWEST)
