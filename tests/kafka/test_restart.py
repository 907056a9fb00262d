"""A node that is killed under librdkafka: nothing is lost, doubled or out of order."""

import threading

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.kafka.foreign import Foreign
from tests.kafka.nodes import TIMEOUT_S, KafkaNode, eventually, serving

FENCED = 74
PARTITIONS = 3
RECORDS = 30_000
KILLS_AT = (6_000, 18_000)  # acks
HELD_AT = 24_000  # so many are sent before the last kill at most


class Sender(threading.Thread):
    """Sends numbers, each partition its own from 0 on; counts the acks."""

    def __init__(self, node, topic):
        super().__init__(daemon=True)
        self._topic = topic
        self._producer = Producer({
            "bootstrap.servers": node.address, "enable.idempotence": True, "linger.ms": 1, "batch.num.messages": 100,
            "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20, "log_level": 0,
            "message.timeout.ms": TIMEOUT_S * 1000,
        })  # fmt: skip
        self.acked = 0
        self.failed = []
        self.left = None
        self.go_on = threading.Event()

    def run(self):
        for number in range(RECORDS):
            while number == HELD_AT and not self.go_on.is_set():
                self._producer.poll(0.01)
            partition, value = number % PARTITIONS, b"%d" % (number // PARTITIONS)
            self._producer.produce(self._topic, value, partition=partition, on_delivery=self._report)
            self._producer.poll(0.001 if number % 50 == 0 else 0)
        self.left = self._producer.flush(TIMEOUT_S)

    def _report(self, error, _message):
        if error is None:
            self.acked += 1
        else:
            self.failed.append(error)


def values(node, topic, partition, count):
    """The numbers in a partition; nothing may follow them."""
    consumer = Consumer({
        "bootstrap.servers": node.address, "group.id": "alone", "enable.auto.commit": False,
        "enable.partition.eof": True, "isolation.level": "read_committed",
    })  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0)])
    found = []
    try:
        while True:
            message = consumer.poll(TIMEOUT_S)
            assert message is not None, f"{len(found)} of {count} records came"
            if message.error() is not None:
                return found
            found.append(int(message.value()))
    finally:
        consumer.close()


@pytest.mark.slow
def test_an_idempotent_producer_outlives_its_node(tmp_path):
    """SIGKILL twice in the middle of a stream."""
    data = tmp_path / "data"
    node = KafkaNode(data)
    try:
        topic = node.create("stream", partitions=PARTITIONS, durability="pagecache")
        sender = Sender(node, topic)
        sender.start()
        for acks in KILLS_AT:
            eventually(lambda acks=acks: sender.acked >= acks)
            node.end(kill=True)
            node = KafkaNode(data, port=node.port)
        sender.go_on.set()
        sender.join(TIMEOUT_S)
        assert not sender.is_alive()
        assert (sender.acked, sender.failed, sender.left) == (RECORDS, [], 0)
        each = RECORDS // PARTITIONS
        for partition in range(PARTITIONS):
            assert values(node, topic, partition, each) == list(range(each))
    finally:
        if node.process.poll() is None:
            node.end()


def test_a_consumer_goes_on_after_a_restart(tmp_path):
    """It reads on where it was; the epoch of the leader is a new one, and it finds out."""
    data = tmp_path / "data"
    with serving(data) as node:
        topic = node.create("stream", durability="pagecache")
        node.send(topic, "before")
        consumer = Consumer({
            "bootstrap.servers": node.address, "group.id": "alone", "enable.auto.commit": False,
            "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "log_level": 0,
        })  # fmt: skip
        consumer.assign([TopicPartition(topic, 0, 0)])
        assert consumer.poll(TIMEOUT_S).value() == b"before"
        node.end(kill=True)
    with serving(data, port=node.port) as node:
        node.send(topic, "after")
        message = consumer.poll(TIMEOUT_S)
        assert (message.error(), message.offset(), message.value()) == (None, 1, b"after")
        consumer.close()


def test_a_restart_begins_a_new_epoch(tmp_path):
    """Who still knows the old one is told so, and can find out where it ended (KIP-320)."""
    data = tmp_path / "data"
    with serving(data) as node:
        topic = node.create("stream", durability="pagecache")
        node.send(topic, "a", "b")
        old = epoch(node, topic)
        node.end(kill=True)
    with serving(data, port=node.port) as node, Foreign(node) as wire:
        node.send(topic, "c")
        assert epoch(node, topic) > old
        asked = {"partition": 0, "current_leader_epoch": old, "fetch_offset": 0, "partition_max_bytes": 1_000}
        topics = [{"topic": topic, "partitions": [asked]}]
        answer = wire.ask("Fetch", 11, max_wait_ms=0, topics=topics, forgotten_topics_data=[])
        assert answer["responses"][0]["partitions"][0]["error_code"] == FENCED
        ask = {"partition": 0, "current_leader_epoch": -1, "leader_epoch": old}
        answer = wire.ask("OffsetForLeaderEpoch", 3, replica_id=-2, topics=[{"topic": topic, "partitions": [ask]}])
        (part,) = answer["topics"][0]["partitions"]
        assert (part["error_code"], part["leader_epoch"], part["end_offset"]) == (0, old, 2)


def epoch(node, topic):
    with Foreign(node) as wire:
        (found,) = wire.ask("Metadata", 8, topics=[{"name": topic}])["topics"]
    return found["partitions"][0]["leader_epoch"]
