"""The node around the protocol: a port of its own, what clients are told, topics on first use, many connections."""

import resource
from contextlib import ExitStack

import pytest
from confluent_kafka import KafkaError, Producer

from tests.kafka.foreign import Foreign
from tests.kafka.nodes import serving

TIMEOUT_S = 30
IDLE = 2_000


def broker(wire):
    (found,) = wire.ask("Metadata", 9, topics=[])["brokers"]
    return found["host"], found["port"]


def test_each_listener_tells_its_own_address(tmp_path):
    """Clients go where the metadata sends them: to the advertised address, or to the one they came by."""
    options = ("--listen", "kafka=127.0.0.1:0", "--advertise", "kafka=broker.example:9092")
    with serving(tmp_path / "data", *options) as node:
        first, second = node.ready["listen"]
        with Foreign(node) as wire:
            assert broker(wire) == ("127.0.0.1", int(first.rpartition(":")[2]))
        with Foreign(node, port=int(second.rpartition(":")[2])) as wire:
            assert broker(wire) == ("broker.example", 9092)
            answer = wire.ask("FindCoordinator", 2, key="g", key_type=0)
            assert (answer["host"], answer["port"]) == ("broker.example", 9092)


def test_topics_are_not_made_on_first_use_when_that_is_turned_off(tmp_path):
    """The client says so, in its own words."""
    with serving(tmp_path / "data", "--set", "auto.create.topics=false") as node:
        with Foreign(node) as wire:
            (topic,) = wire.ask("Metadata", 9, topics=[{"name": "t"}], allow_auto_topic_creation=True)["topics"]
        assert topic["error_code"] == KafkaError.UNKNOWN_TOPIC_OR_PART
        failed = []
        producer = Producer({
            "bootstrap.servers": node.address, "message.timeout.ms": 5_000, "log_level": 0,
            "topic.metadata.propagation.max.ms": 0,
        })  # fmt: skip
        producer.produce("t", b"v", on_delivery=lambda error, _message: failed.append(error.code()))
        assert producer.flush(TIMEOUT_S) == 0
    assert failed == [KafkaError.UNKNOWN_TOPIC_OR_PART]


@pytest.mark.slow
def test_two_thousand_idle_connections_are_in_nobodys_way(tmp_path):
    """Each has said what it speaks; one works meanwhile; all are there at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * IDLE:
        pytest.skip(f"a process may open {hard} files here")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * IDLE), hard))
    with serving(tmp_path / "data") as node, ExitStack() as stack:
        idle = [stack.enter_context(Foreign(node)) for _ in range(IDLE)]
        for wire in idle:
            wire.send("ApiVersions", 0)
        assert all(wire.receive("ApiVersions", 0)[1]["error_code"] == 0 for wire in idle)
        topic = node.create("busy", durability="pagecache")
        reports = []
        producer = Producer({"bootstrap.servers": node.address})
        for number in range(1_000):
            producer.produce(topic, b"%d" % number, on_delivery=lambda error, _message: reports.append(error))
        assert producer.flush(TIMEOUT_S) == 0
        assert reports == [None] * 1_000
        assert [int(record.value) for record in node.read(topic, 1_000)] == list(range(1_000))
        for wire in idle:
            wire.send("ApiVersions", 0)
        assert all(wire.receive("ApiVersions", 0)[1]["error_code"] == 0 for wire in idle)
