"""Groups of clients that no one here wrote: members come and go while records flow, each record is accounted for."""

import threading
import time

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.kafka.members import (
    PARTITIONS,
    TIMEOUT_S,
    Members,
    aiokafka,
    committed,
    kafka_python,
    librdkafka,
    numbers,
    produce,
)
from tests.kafka.nodes import KafkaNode


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
def test_librdkafkas_members_come_and_go(node, name, strategy):
    """Each record is read once: what was committed is not read again by who takes over."""
    topic, leave, stay = node.create(name, partitions=PARTITIONS), threading.Event(), threading.Event()
    options = {"partition.assignment.strategy": strategy}

    def member(address, left, seen):
        librdkafka(address, topic, name, left, seen, **options)

    with Members() as members:
        first = members.start(member, node.address, leave)
        for at in range(3):
            produce(node.address, topic, numbers(at * 500, at * 500 + 500))
            members.seen.wait_for(at * 500 + 500)
            if at < 2:
                members.start(member, node.address, stay)
        leave.set()
        first.join(TIMEOUT_S)
        produce(node.address, topic, numbers(1_500, 2_000))
        members.seen.wait_for(2_000)
    assert sorted(members.seen.values) == sorted(numbers(0, 2_000))


def test_clients_of_different_kinds_share_a_topic(node, name):
    """kafka-python and aiokafka, in one group."""
    topic = node.create(name, partitions=PARTITIONS)
    with Members() as members:
        produce(node.address, topic, numbers(0, 300))
        members.start(kafka_python, node.address, topic, name)
        members.seen.wait_for(300)
        members.start(aiokafka, node.address, topic, name)
        produce(node.address, topic, numbers(300, 600))
        members.seen.wait_for(600)
    assert set(members.seen.values) == set(numbers(0, 600))


def test_a_group_outlives_a_killed_node(tmp_path):
    """Commits that were answered are there; the members go on by themselves."""
    node = KafkaNode(tmp_path / "data")
    try:
        topic = node.create("outlives", partitions=PARTITIONS)
        with Members() as members:
            for _ in range(2):
                members.start(librdkafka, node.address, topic, "g", threading.Event())
            produce(node.address, topic, numbers(0, 600))
            members.seen.wait_for(600)
            port = node.port
            node.end(kill=True)
            node = KafkaNode(tmp_path / "data", port=port)
            produce(node.address, topic, numbers(600, 1_200))
            members.seen.wait_for(1_200)
        assert set(members.seen.values) == set(numbers(0, 1_200))
        assert committed(AdminClient({"bootstrap.servers": node.address}), "g") == 1_200
    finally:
        node.end()


def test_looking_after_groups(node, name):
    """Listed, described, its offsets altered and deleted, and it itself; not while it has members."""
    topic, admin = node.create(name, partitions=PARTITIONS), AdminClient({"bootstrap.servers": node.address})
    with Members() as members:
        produce(node.address, topic, numbers(0, 60))
        members.start(librdkafka, node.address, topic, name, threading.Event())
        members.seen.wait_for(60)
        described = admin.describe_consumer_groups([name])[name].result(TIMEOUT_S)
        assert described.state.name == "STABLE"
        [member] = described.members
        assert len(member.assignment.topic_partitions) == PARTITIONS
        with pytest.raises(KafkaException) as caught:
            admin.delete_consumer_groups([name])[name].result(TIMEOUT_S)
        assert caught.value.args[0].code() == KafkaError.NON_EMPTY_GROUP
    assert name in {found.group_id for found in admin.list_consumer_groups().result(TIMEOUT_S).valid}
    assert committed(admin, name) == 60
    moved = [ConsumerGroupTopicPartitions(name, [TopicPartition(topic, 0, 3)])]
    admin.alter_consumer_group_offsets(moved)[name].result(TIMEOUT_S)
    assert committed(admin, name) == 53
    admin.delete_consumer_groups([name])[name].result(TIMEOUT_S)
    assert name not in {found.group_id for found in admin.list_consumer_groups().result(TIMEOUT_S).valid}


def test_a_static_member_comes_back_to_its_partitions(node, name):
    """Its restart moves nothing (KIP-345)."""
    topic = node.create(name, partitions=PARTITIONS)
    assignments = []
    for _ in range(2):
        consumer = Consumer({
            "bootstrap.servers": node.address, "group.id": name, "group.instance.id": "one", "log_level": 0,
            "auto.offset.reset": "earliest", "session.timeout.ms": 20_000,
        })  # fmt: skip
        consumer.subscribe([topic], on_assign=lambda _consumer, parts: assignments.append(len(parts)))
        deadline = time.monotonic() + TIMEOUT_S
        while len(assignments) < 1 + _ and time.monotonic() < deadline:
            consumer.poll(0.2)
        consumer.close()
    assert assignments == [PARTITIONS, PARTITIONS]
