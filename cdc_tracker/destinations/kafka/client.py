"""The Kafka client library, where it is installed."""

from __future__ import annotations

from cdc_tracker.errors import ConfigError

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic
except ImportError as error:
    raise ConfigError(
        "the destination type `kafka` needs confluent-kafka, which is not installed", hint="pip install 'cdc-tracker[kafka]'"
    ) from error

__all__ = ["AdminClient", "Consumer", "KafkaError", "KafkaException", "Message", "NewTopic", "Producer", "TopicPartition"]
