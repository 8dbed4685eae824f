"""The ways to a vendor: through proxies that the environment names, and by TLS with a certificate authority of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdc_tracker.delivery.sender import send
from cdc_tracker.errors import DestinationUnavailable
from tests.certificates import Authority, authority
from tests.contract.kits import HTTP
from tests.contract.test_destinations import FINAL, QUICK, never, quiet
from tests.proxy import ForwardingProxy
from tests.vendors.kit import Kit, Opener, batch, event, events

HOST = "vendor.test"  # nobody but the proxy knows it

pytestmark = pytest.mark.parametrize("kit", HTTP, indirect=True)


@pytest.fixture(scope="module")
def own_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def proxy() -> Iterator[ForwardingProxy]:
    with ForwardingProxy() as running:
        yield running


def deliver(opened: Opener, kit: Kit, start: int) -> None:
    """Some events, from a number on, which the vendor then has."""
    destination = opened()
    try:
        receipts = send(destination, batch(events(3, start=start)), stop=never, on_trouble=quiet, backoff=QUICK)
    finally:
        destination.close()
    assert {receipt.outcome for receipt in receipts} <= set(FINAL)
    assert {call["messageId"] for call in kit.held()} >= {event(n).message_id for n in range(start, start + 3)}


def opener(kit: Kit) -> tuple[Opener, str, int]:
    """How to open it, the vendor's address in its settings, and the port."""
    assert isinstance(kit.open, Opener)
    assert kit.server is not None
    return kit.open, kit.server.url, int(kit.server.url.rpartition(":")[2])


def test_http_goes_through_the_proxy_that_the_environment_names(
    kit: Kit, proxy: ForwardingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, url, port = opener(kit)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    deliver(opened.moved(url, f"http://{HOST}:{port}"), kit, 0)
    assert set(proxy.asked) == {("POST", HOST)}
    proxy.asked.clear()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    deliver(opened, kit, 3)
    assert proxy.asked == []


def test_https_goes_through_the_proxy_to_a_vendor_with_a_certificate_of_ones_own(
    kit: Kit, proxy: ForwardingProxy, own_ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, url, _ = opener(kit)
    assert kit.server is not None
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with kit.server.over_tls(own_ca.server) as port:
        deliver(opened.moved(url, f"https://{HOST}:{port}", ca=str(own_ca.ca)), kit, 0)
    assert set(proxy.asked) == {("CONNECT", HOST)}


def test_a_certificate_is_checked_unless_told_otherwise(kit: Kit, own_ca: Authority) -> None:
    opened, url, _ = opener(kit)
    assert kit.server is not None
    with kit.server.over_tls(own_ca.server) as port:
        there = opened.moved(url, f"https://127.0.0.1:{port}")
        stranger = there()
        with pytest.raises(DestinationUnavailable, match="certificate verify failed") as caught:
            stranger.deliver(batch(events(3)))
        stranger.close()
        assert "`ca`" in caught.value.hint
        assert kit.held() == []
        deliver(there.changed(ca=str(own_ca.ca)), kit, 0)
        deliver(there.changed(verify=False), kit, 3)
