"""The server-side group protocol (KIP-848) with a client that no one here wrote."""

import threading
import time

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
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
from tests.kafka.nodes import KafkaNode, eventually


def consumer_of(address, group, **options):
    return Consumer({
        "bootstrap.servers": address, "group.id": group, "group.protocol": "consumer", "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "log_level": 0, **options,
    })  # fmt: skip


def member(address, topic, group, leave, seen):
    librdkafka(address, topic, group, leave, seen, **{"group.protocol": "consumer"})


def described(node, group):
    admin = AdminClient({"bootstrap.servers": node.address})
    return admin.describe_consumer_groups([group])[group].result(TIMEOUT_S)


def test_members_come_and_go(node, name):
    """Each record is read once: a partition goes on only after whoever had it has committed and let go."""
    topic, leave, stay = node.create(name, partitions=PARTITIONS), threading.Event(), threading.Event()
    with Members() as members:
        first = members.start(member, node.address, topic, name, leave)
        for at in range(3):
            produce(node.address, topic, numbers(at * 500, at * 500 + 500))
            members.seen.wait_for(at * 500 + 500)
            if at < 2:
                members.start(member, node.address, topic, name, stay)
        eventually(lambda: sorted(map(count, described(node, name).members)) == [2, 2, 2])
        leave.set()
        first.join(TIMEOUT_S)
        produce(node.address, topic, numbers(1_500, 2_000))
        members.seen.wait_for(2_000)
        eventually(lambda: sorted(map(count, described(node, name).members)) == [3, 3])
    assert sorted(members.seen.values) == sorted(numbers(0, 2_000))
    assert committed(AdminClient({"bootstrap.servers": node.address}), name) == 2_000


def count(described_member):
    return len(described_member.assignment.topic_partitions)


def test_a_group_is_described(node, name):
    """With its kind, its state, its members and what they are to read."""
    topic = node.create(name, partitions=PARTITIONS)
    with Members() as members:
        members.start(member, node.address, topic, name, threading.Event())
        eventually(lambda: [count(m) for m in described(node, name).members] == [PARTITIONS])
        found = described(node, name)
        assert (found.state.name, found.type.name) == ("STABLE", "CONSUMER")
        assert len(found.members[0].target_assignment.topic_partitions) == PARTITIONS
        admin = AdminClient({"bootstrap.servers": node.address})
        with pytest.raises(KafkaException):
            admin.delete_consumer_groups([name])[name].result(TIMEOUT_S)
    assert described(node, name).state.name == "EMPTY"
    admin.delete_consumer_groups([name])[name].result(TIMEOUT_S)


def test_by_pattern(node, name):
    """Topics that come later are found; RE2 decides."""
    node.create(f"{name}-one")
    node.create(f"other-{name}")
    consumer = consumer_of(node.address, name, **{"topic.metadata.refresh.interval.ms": 500})
    consumer.subscribe([f"^{name}-.*"])
    try:
        poll_until(consumer, lambda: topics_of(consumer) == {f"{name}-one"})
        node.create(f"{name}-two", partitions=2)
        poll_until(consumer, lambda: topics_of(consumer) == {f"{name}-one", f"{name}-two"})
    finally:
        consumer.close()


def topics_of(consumer):
    return {part.topic for part in consumer.assignment()}


def poll_until(consumer, happened):
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < deadline
        consumer.poll(0.1)


def test_a_topic_grows(node, name):
    """The new partitions are shared out by themselves."""
    topic = node.create(name, partitions=1)
    consumer = consumer_of(node.address, name)
    consumer.subscribe([topic])
    try:
        poll_until(consumer, lambda: len(consumer.assignment()) == 1)
        node.native(lambda mq: mq.admin.add_partitions(topic, 4))
        poll_until(consumer, lambda: len(consumer.assignment()) == 4)
    finally:
        consumer.close()


def test_a_static_member_comes_back_to_its_partitions(node, name):
    """While it is away nobody gets them (KIP-345)."""
    topic = node.create(name, partitions=PARTITIONS)
    other = consumer_of(node.address, name, **{"group.instance.id": "other"})
    other.subscribe([topic])
    held = []
    for _ in range(2):
        one = consumer_of(node.address, name, **{"group.instance.id": "one"})
        one.subscribe([topic])
        deadline = time.monotonic() + TIMEOUT_S
        while not len(one.assignment()) == len(other.assignment()) == PARTITIONS // 2:
            assert time.monotonic() < deadline
            one.poll(0.05)
            other.poll(0.05)
        held.append({part.partition for part in one.assignment()})
        one.close()
    other.close()
    assert held[0] == held[1]


def test_an_unknown_assignor_is_told(node, name):
    """The client gives up with the broker's own words."""
    topic = node.create(name)
    consumer = consumer_of(node.address, name, **{"group.remote.assignor": "nope"})
    consumer.subscribe([topic])
    try:
        with pytest.raises(KafkaException, match="ssignor"):
            raise_on_error(consumer)
    finally:
        consumer.close()


def raise_on_error(consumer):
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is not None:
            raise KafkaException(message.error())


def test_a_group_outlives_a_killed_node(tmp_path):
    """Members go on with what they have; what they committed is there."""
    node = KafkaNode(tmp_path / "data")
    try:
        topic = node.create("outlives", partitions=PARTITIONS)
        with Members() as members:
            for _ in range(2):
                members.start(member, node.address, topic, "g", threading.Event())
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


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_a_live_group_is_upgraded(node, name, strategy):
    """Members change over to the new protocol one by one while records flow: none is lost, none is read twice."""
    topic, stay = node.create(name, partitions=PARTITIONS), threading.Event()
    leave = [threading.Event() for _ in range(2)]

    def classic(address, left, seen):
        librdkafka(address, topic, name, left, seen, **{"partition.assignment.strategy": strategy})

    with Members() as members:
        old = [members.start(classic, node.address, left) for left in leave]
        for at in range(4):
            produce(node.address, topic, numbers(at * 300, at * 300 + 300))
            members.seen.wait_for(at * 300 + 300)
            if at < 2:
                members.start(member, node.address, topic, name, stay)
                eventually(lambda at=at: [m for m in counts(node, name) if m][at:])
            elif at < 4:
                leave[at - 2].set()
                old[at - 2].join(TIMEOUT_S)
        produce(node.address, topic, numbers(1_200, 1_500))
        members.seen.wait_for(1_500)
        eventually(lambda: counts(node, name) == [3, 3])
    assert sorted(members.seen.values) == sorted(numbers(0, 1_500))
    assert committed(AdminClient({"bootstrap.servers": node.address}), name) == 1_500


def counts(node, group):
    """How many partitions each member has."""
    return sorted(count(m) for m in described(node, group).members)


@pytest.mark.parametrize("classic", [aiokafka, kafka_python])
def test_members_of_both_protocols_share_a_topic(node, name, classic):
    """Another client, that speaks only the classic one, beside the new one."""
    topic, leave = node.create(name, partitions=PARTITIONS), threading.Event()
    with Members() as members:
        members.start(classic, node.address, topic, name)
        produce(node.address, topic, numbers(0, 300))
        members.seen.wait_for(300)
        new = members.start(member, node.address, topic, name, leave)
        eventually(lambda: counts(node, name) == [3, 3])
        produce(node.address, topic, numbers(300, 600))
        members.seen.wait_for(600)
        leave.set()
        new.join(TIMEOUT_S)
        eventually(lambda: counts(node, name) == [6])
        produce(node.address, topic, numbers(600, 900))
        members.seen.wait_for(900)
    assert set(members.seen.values) == set(numbers(0, 900))


def test_the_classic_protocol_may_follow(node, name):
    """Once the group is empty, with its offsets; and the other way round."""
    topic = node.create(name, partitions=1)
    produce(node.address, topic, numbers(0, 10), partitions=1)
    for protocol, first in (("consumer", 0), ("classic", 3), ("consumer", 6)):
        consumer = consumer_of(node.address, name, **{"group.protocol": protocol})
        consumer.subscribe([topic])
        found = []
        deadline = time.monotonic() + TIMEOUT_S
        while len(found) < 3:
            assert time.monotonic() < deadline
            found += consumer.consume(3 - len(found), 0.2)
        assert [message.offset() for message in found] == [first, first + 1, first + 2]
        consumer.commit(offsets=[TopicPartition(topic, 0, first + 3)], asynchronous=False)
        consumer.close()
