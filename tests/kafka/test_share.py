"""Share groups (KIP-932) with a client that no one here wrote."""

import time
from collections import Counter
from contextlib import contextmanager

from confluent_kafka import AcknowledgeType, KafkaException, ShareConsumer
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

import dduomq
from tests.kafka.members import TIMEOUT_S, Members, numbers, produce
from tests.kafka.nodes import KafkaNode, serving

COUNT = 2_000
LOCK, START, DELIVERIES = "share.record.lock.duration.ms", "share.auto.offset.reset", "share.delivery.count.limit"


def configure(node, group, **settings):
    """The group's queues begin with the first record, unless said otherwise."""
    names = {"lock_ms": LOCK, "deliveries": DELIVERIES}
    config = {START: "earliest", **{names[key]: str(value) for key, value in settings.items()}}
    admin = KafkaAdminClient(bootstrap_servers=node.address)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.GROUP, group, config)])
        resource = ConfigResource(ConfigResourceType.GROUP, group)
        return admin.describe_configs([resource])
    finally:
        admin.close()


@contextmanager
def sharing(node, group, topic, **options):
    """A member that says itself what becomes of its records."""
    consumer = ShareConsumer({
        "bootstrap.servers": node.address, "group.id": group, "share.acknowledgement.mode": "explicit", "log_level": 0,
        **options,
    })  # fmt: skip
    consumer.subscribe([topic])
    try:
        yield consumer
    finally:
        consumer.close()


def poll(consumer, seconds=0.5):
    messages = list(consumer.poll(seconds))
    for message in messages:
        if message.error():
            raise KafkaException(message.error())
    return messages


def some(consumer):
    """The first messages that come."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (messages := poll(consumer)):
        assert time.monotonic() < deadline, "nothing comes"
    return messages


def commit(consumer):
    """Each partition's error, if there is one."""
    return [error.args[0].code() for error in consumer.commit_sync(TIMEOUT_S).values() if error is not None]


def work(node, topic, group, seen, share_of=1):
    """A member that accepts what it gets; every `share_of`th record only when it comes again."""
    with sharing(node, group, topic) as consumer:
        while not seen.stop.is_set():
            done = []
            for message in poll(consumer, 0.2):
                is_late = message.delivery_count() == 1 and int(message.value()) % share_of == 0 and share_of > 1
                consumer.acknowledge(message, AcknowledgeType.RELEASE if is_late else AcknowledgeType.ACCEPT)
                done += [] if is_late else [message.value()]
            assert commit(consumer) == []
            seen.add(done)


def letters(node, group, count):
    """The group's dead letters, once there are so many."""
    deadline = time.monotonic() + 20
    with dduomq.blocking.connect(node.address) as mq:
        while True:
            counts = {one.group: one.count for one in mq.admin.dead_letter_groups()}
            if counts.get(group, 0) >= count or time.monotonic() > deadline:
                return list(mq.admin.dead_letters(group))
            time.sleep(0.1)


def test_members_share_a_partition(node, name):
    """Each record is done once, by one of four, though a tenth is given back at first; then the queue is empty."""
    topic = node.create(name)
    configure(node, name)
    produce(node.address, topic, numbers(0, COUNT), partitions=1)
    with Members() as members:
        for _ in range(4):
            members.start(lambda seen: work(node, topic, name, seen, 10))
        members.seen.wait_for(COUNT)
    assert Counter(members.seen.values) == Counter(numbers(0, COUNT))
    with sharing(node, name, topic) as consumer:
        assert poll(consumer, 2) == []


def test_what_becomes_of_records(node, name):
    """Released ones come again with a count, rejected ones don't, and the last delivery is the last."""
    topic = node.create(name)
    configure(node, name, deliveries=3)
    produce(node.address, topic, numbers(0, 3), partitions=1)
    deliveries = Counter()
    with sharing(node, name, topic) as consumer:
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            for message in poll(consumer, 0.3):
                deliveries[message.value()] += 1
                assert message.delivery_count() == deliveries[message.value()]
                word = {b"0": AcknowledgeType.ACCEPT, b"1": AcknowledgeType.REJECT}.get(message.value())
                consumer.acknowledge(message, AcknowledgeType.RELEASE if word is None else word)
            assert commit(consumer) == []
    assert deliveries == {b"0": 1, b"1": 1, b"2": 3}
    dead = letters(node, name, 2)
    assert sorted((letter.value, letter.origin_offset, letter.attempts) for letter in dead) == [
        (b"1", 1, 1),
        (b"2", 2, 3),
    ]
    assert {letter.origin_topic for letter in dead} == {topic}


def test_a_member_without_words(node, name):
    """In the implicit mode the next poll accepts."""
    topic = node.create(name)
    configure(node, name)
    produce(node.address, topic, numbers(0, COUNT), partitions=1)
    found = []
    with sharing(node, name, topic, **{"share.acknowledgement.mode": "implicit"}) as consumer:
        while len(found) < COUNT:
            found += [message.value() for message in some(consumer)]
        assert commit(consumer) == []
    assert found == numbers(0, COUNT)


def test_a_lock_that_expires(node, name):
    """Another member gets the record, and whoever had it is told that it has it no more."""
    topic = node.create(name)
    configure(node, name, lock_ms=1_000)
    produce(node.address, topic, numbers(0, 5), partitions=1)
    with sharing(node, name, topic) as slow, sharing(node, name, topic) as other:
        late = some(slow)
        again = some(other)
        assert [message.value() for message in again] == [message.value() for message in late]
        assert {message.delivery_count() for message in again} == {2}
        for message in late:
            slow.acknowledge(message, AcknowledgeType.ACCEPT)
        assert commit(slow) == [121]
        for message in again:
            other.acknowledge(message, AcknowledgeType.ACCEPT)
        assert commit(other) == []


def test_a_node_that_is_killed(tmp_path, name):
    """What was acknowledged is not given out again; what was not, is."""
    options = ("--set", "default.partitions=1")
    with serving(tmp_path / "data", *options) as node:
        topic, port = node.create(name), node.port
        configure(node, name, lock_ms=2_000)
        produce(node.address, topic, numbers(0, 100), partitions=1)
        with sharing(node, name, topic) as consumer:
            messages = some(consumer)
            while len(messages) < 100:
                for message in messages[-1:]:
                    consumer.acknowledge(message, AcknowledgeType.ACCEPT)
                messages += some(consumer)
            for message in messages:
                word = AcknowledgeType.ACCEPT if int(message.value()) < 60 else AcknowledgeType.RELEASE
                consumer.acknowledge(message, word)
            assert commit(consumer) == []
            node.end(kill=True)
            again = KafkaNode(tmp_path / "data", *options, port=port)
            try:
                found = []
                while len(found) < 40:
                    batch = some(consumer)
                    for message in batch:
                        consumer.acknowledge(message, AcknowledgeType.ACCEPT)
                    found += [message.value() for message in batch] if commit(consumer) == [] else []
                assert found == numbers(60, 100)
                assert poll(consumer, 3) == []
            finally:
                again.end()


def test_settings_of_a_group(node, name):
    """As they were set, and not as they can't be."""
    shown = str(configure(node, name, lock_ms=5_000, deliveries=7))
    for setting, value in ((START, "earliest"), (LOCK, 5_000), (DELIVERIES, 7)):
        assert f"'{setting}': {{'value': '{value}'" in shown
    admin = KafkaAdminClient(bootstrap_servers=node.address)
    try:
        for setting, value in ((START, "by_duration:soon"), (LOCK, "1"), (DELIVERIES, "0"), (LOCK, "9" * 30)):
            found = admin.alter_configs([ConfigResource(ConfigResourceType.GROUP, name, {setting: value})])
            assert "InvalidConfiguration" in str(found)
        assert str(configure(node, name, lock_ms=5_000, deliveries=7)) == shown
    finally:
        admin.close()


def test_a_group_that_begins_some_time_ago(node, name):
    """With what was written since then."""
    topic = node.create(name)
    produce(node.address, topic, numbers(0, 5), partitions=1)
    admin = KafkaAdminClient(bootstrap_servers=node.address)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.GROUP, name, {START: "by_duration:PT1H"})])
    finally:
        admin.close()
    with sharing(node, name, topic) as consumer:
        assert [message.value() for message in some(consumer)] == numbers(0, 5)
