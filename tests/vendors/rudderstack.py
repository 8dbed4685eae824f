"""RudderStack's data plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.vendors.kit import Kit, Place, made
from tests.vendors.segment import WRITE_KEY, SegmentServer, _Identity
from tests.vendors.server import Answer, Request, VendorServer


class RudderstackServer(SegmentServer):
    """`OK` to a batch that is stored. An event of nobody: 400 for the whole batch. Above 4,000 KiB: 413. Disabled: 404.

    With deduplication turned on, as here, the first event of a messageId counts. Answers are plain text.
    """

    events_at_most = 1_000_000
    too_large = Answer(413, b"Request size exceeds max limit\n")
    taken = Answer(body=b"OK")

    def __init__(self, *, batch_bytes: int = 4_000 * 1024, **options: Any) -> None:
        self.disabled = False
        super().__init__(batch_bytes=batch_bytes, event_bytes=batch_bytes, **options)

    def handle(self, request: Request) -> Answer:
        return Answer(404, b"Source is disabled\n") if self.disabled else super().handle(request)

    def keeps(self, event: bytes, who: _Identity) -> bool:
        return who.somebody

    def refused(self, identities: list[_Identity]) -> Answer | None:
        everybody = all(who.somebody for who in identities)
        return None if everybody else Answer(400, b"Request neither has anonymousId nor userId\n")


@contextmanager
def _kit(place: Place) -> Iterator[Kit]:
    with RudderstackServer(write_key=WRITE_KEY) as server:
        opened = made("rudderstack", place.folder, write_key=WRITE_KEY, data_plane=server.url)
        yield Kit(opened, server.held, keeps_repeats=False, server=server, stranger={"write_key": "another-key"})


KITS = {"rudderstack": _kit}


def serve(port: int) -> VendorServer:
    """For a process of its own."""
    return RudderstackServer(port=port, keep_requests=False)


def settings(url: str) -> dict[str, Any]:
    """Of a destination that sends to it."""
    return {"type": "rudderstack", "write_key": "key", "data_plane": url}
