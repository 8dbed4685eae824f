"""The NATS client library, where it is installed."""

from __future__ import annotations

from cdc_tracker.errors import ConfigError

try:
    from nats import errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.errors import NotFoundError, ServiceUnavailableError
except ImportError as error:
    raise ConfigError(
        "the destination type `nats` needs nats-py, which is not installed", hint="pip install 'cdc-tracker[nats]'"
    ) from error

__all__ = ["Client", "Msg", "NotFoundError", "ServiceUnavailableError", "errors"]
