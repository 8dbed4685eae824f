"""The RabbitMQ client library, where it is installed."""

from __future__ import annotations

import logging

from cdc_tracker.errors import ConfigError

try:
    import pika
    from pika import exceptions, spec
    from pika.adapters.select_connection import IOLoop, SelectConnection
    from pika.channel import Channel
except ImportError as error:
    raise ConfigError(
        "the destination type `rabbitmq` needs pika, which is not installed", hint="pip install 'cdc-tracker[rabbitmq]'"
    ) from error

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs each failure several times over; we say it once

__all__ = ["Channel", "IOLoop", "SelectConnection", "exceptions", "pika", "spec"]
