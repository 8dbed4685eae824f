"""Translates Kafka's errors."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import KafkaError

from cdc_tracker.errors import (
    AlreadyRunning,
    BatchRejected,
    CdcTrackerError,
    DestinationBlocked,
    DestinationUnavailable,
    TooLarge,
)

FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)
REFUSED = (
    KafkaError.INVALID_RECORD,
    KafkaError._INVALID_DIFFERENT_RECORD,
    KafkaError.POLICY_VIOLATION,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_MSG,
)
_LOGIN = (KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION, KafkaError._SSL)
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow it WRITE and DESCRIBE on the topics, and READ on the checkpoint topic",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "allow it WRITE and DESCRIBE on the transactional id, by a prefixed ACL",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow it IDEMPOTENT_WRITE on the cluster",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow it READ on the group of the same name as the transactional id",
}
_NO_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_EXCEPTION,
)
_MAKE_IT = "make the topic, or let the brokers do so (auto.create.topics.enable)"


def translated(
    error: KafkaError, place: str, *, topic: str | None = None, behind: KafkaError | None = None, secrets: Iterable[str] = ()
) -> CdcTrackerError:
    """The error as a CdcTrackerError. `behind`: the last error of a connection, which says more than a timeout."""
    code = error.code()
    text = f"{place}: {f'topic {topic}: ' if topic else ''}{error.str()}"
    for secret in secrets:
        text = text.replace(secret, "***")
    if code in FENCED:
        return AlreadyRunning(
            f"{place}: another producer has taken over this transactional.id",
            hint="another worker delivers to this destination, or another installation uses the same name: stop it, or set "
            "`transactional_id`. Nothing was written twice",
        )
    if code in _LOGIN or (behind is not None and behind.code() in _LOGIN):
        said = text if code in _LOGIN or behind is None else f"{place}: {behind.str()}"
        return DestinationBlocked(said, hint="correct the credentials and security.protocol in `config`")
    if code in _FORBIDDEN or code in _NO_TOPIC:
        return DestinationBlocked(text, hint=_FORBIDDEN.get(code, _MAKE_IT))
    if code in TOO_LARGE or code in REFUSED:
        return TooLarge(text) if code in TOO_LARGE else BatchRejected(text)
    said = f" ({behind.str()})" if behind is not None and behind.code() != code else ""
    return DestinationUnavailable(text + said)
