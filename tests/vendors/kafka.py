"""Apache Kafka: one broker in KRaft mode, run from the jars of Maven Central.

The jars are fetched once by Maven into ~/.cache/cdc-tracker-tests (or $CDC_TRACKER_TEST_CACHE); nothing is asked of the network
after that. `python -m tests.vendors.kafka` fetches them.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.ports import free_ports
from tests.vendors.engine import Program, answers, folder, program
from tests.vendors.kit import EngineUnavailable, Kit, Place, decoded, made
from tests.worker import until

VERSION = "4.1.1"
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>cdc-tracker</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl}
controller.listener.names=CONTROLLER
log.dirs={root}/data
auto.create.topics.enable=false
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.cleaner.dedupe.buffer.size=4194304
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
 user_guest="guest-password";
"""


def jars() -> Path:
    """The folder of the broker's jars, filled where it is not there. Raises EngineUnavailable."""
    cache = Path(os.environ.get("CDC_TRACKER_TEST_CACHE") or Path.home() / ".cache" / "cdc-tracker-tests")
    target = cache / f"kafka-{VERSION}"
    if target.exists():
        return target
    maven = program("mvn", "maven")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        (Path(work) / "pom.xml").write_text(_POM)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={work}/jars"]
        done = subprocess.run([maven, "-q", "-B", *goal], cwd=work, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            said = " ".join(re.sub(r"\x1b\[[0-9;]*m|\[ERROR\]", "", done.stdout + done.stderr).split())
            raise EngineUnavailable(f"the jars of Kafka {VERSION} cannot be fetched: {said[:160]}…")
        try:
            (Path(work) / "jars").rename(target)
        except OSError:
            if not target.exists():  # another run was quicker
                raise
    return target


@dataclass(frozen=True)
class Broker:
    program: Program
    url: str
    sasl_url: str  # PLAIN, for the user `guest` with the password `guest-password`, who may do nothing

    @property
    def client(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.url}

    def make_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        dashed = {key.replace("_", "."): value for key, value in config.items()}
        admin = AdminClient(self.client)  # has to be there until the answer is
        admin.create_topics([NewTopic(name, partitions, 1, config=dashed)])[name].result(20)

    def produce(self, topic: str, key: bytes, value: bytes) -> None:
        producer = Producer(self.client)
        producer.produce(topic, value, key)
        producer.flush(20)

    def remove_topic(self, name: str) -> None:
        admin = AdminClient(self.client)
        admin.delete_topics([name])[name].result(20)
        until(lambda: name not in self.topics(), f"{name} is gone")

    def kept(self, *topics: str) -> Callable[[], None]:
        """What they hold; the function makes them anew, and puts that into them, as bringing back a copy of the cluster would."""
        held = {topic: self.messages(topic) for topic in topics}

        def bring_back() -> None:
            producer = Producer(self.client)
            for topic, messages in held.items():
                self.remove_topic(topic)
                self.make_topic(topic)
                for message in messages:
                    producer.produce(topic, message.value(), message.key(), headers=message.headers() or [])
            producer.flush(20)

        return bring_back

    def topics(self) -> set[str]:
        return set(AdminClient(self.client).list_topics(timeout=20).topics)

    def messages(self, topic: str, *, committed: bool = True) -> list[Any]:
        """Every message of a topic, partition by partition."""
        isolation = "read_committed" if committed else "read_uncommitted"
        settings = {"group.id": "tests", "isolation.level": isolation, "enable.partition.eof": True, "fetch.wait.max.ms": 20}
        with closing(Consumer({**self.client, **settings, "enable.auto.commit": False})) as consumer:
            partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found: dict[int, list[Any]] = {number: [] for number in partitions}
            left = set(partitions)
            while left:
                for message in consumer.consume(10_000, timeout=0.2):
                    error = message.error()
                    if error is None:
                        found[message.partition() or 0].append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard(message.partition())
                    else:
                        raise KafkaException(error)
        return [message for number in sorted(found) for message in found[number]]


@contextmanager
def engine() -> Iterator[Broker]:
    """Ready when it answers; `auto.create.topics.enable` is off."""
    java = program("java", "openjdk-17-jre-headless")
    classes = f"{jars()}/*"
    with folder() as root:
        port, sasl, controller = free_ports(3)
        settings = root / "server.properties"
        settings.write_text(_SETTINGS.format(root=root, port=port, sasl=sasl, controller=controller))
        small = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classes]
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):  # it would be taken for an option
            cluster = "c" + cluster[1:]
        storage = [java, *small, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)]
        subprocess.run(storage, check=True, capture_output=True, cwd=root)
        running = Program([java, *small, "kafka.Kafka", str(settings)], root, lambda: answers(port))
        try:
            running.start()
            yield Broker(running, f"127.0.0.1:{port}", f"127.0.0.1:{sasl}")
        finally:
            running.kill()


@contextmanager
def _kit(place: Place, **settings: Any) -> Iterator[Kit]:
    broker: Broker = place.engines.get("kafka")
    topic = f"events-{uuid.uuid4().hex[:12]}"
    broker.make_topic(topic)

    def held() -> list[dict[str, Any]]:
        return [decoded(message.value()) for message in broker.messages(topic)]

    exact = settings.get("transactions", True)

    def remove() -> None:
        broker.remove_topic(positions)
        broker.remove_topic(topic)
        broker.make_topic(topic)

    positions = f"{topic}-positions"
    settings |= {"brokers": broker.url, "topic": topic, "transactional_id": topic, "checkpoint_topic": positions}
    opened = made("kafka", place.folder, **settings)
    yield Kit(opened, held, keeps_repeats=True, exactly_once=exact, keep=lambda: broker.kept(topic, positions), remove=remove)


KITS = {"kafka": _kit, "kafka-plain": lambda place: _kit(place, transactions=False)}
HOLDERS = ["kafka"]

if __name__ == "__main__":
    print(jars())
