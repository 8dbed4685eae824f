"""What an event's context says of the device it came from: `ip` and `userAgent`, as the Segment spec names them."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec

from cdc_tracker.destinations.support.json_splice import NOTHING

_TEXT = msgspec.json.Decoder(str)


class Device(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """Only a hint to a vendor: what is no text, or no address, counts as not known, and parks nothing."""

    ip: msgspec.Raw = NOTHING
    user_agent: msgspec.Raw = NOTHING

    @property
    def address(self) -> str:
        """An IPv4 or IPv6 address; empty where it is not known."""
        if self.ip is NOTHING:
            return ""
        try:
            return str(ip_address(_text(self.ip)))
        except ValueError:
            return ""

    @property
    def agent(self) -> str:
        """The browser's own words; empty where they are not known."""
        return "" if self.user_agent is NOTHING else _text(self.user_agent)


def _text(raw: msgspec.Raw) -> str:
    text = bytes(raw)
    return _TEXT.decode(text) if text[:1] == b'"' else ""
