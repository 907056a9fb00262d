"""Native and Kafka clients on the same topics: the same records, offsets and errors, in both directions."""

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

import dduomq
from dduomq import errors

TIMEOUT_S = 30
START_MS = 1_700_000_000_000
# (key, value, headers) as they are on the wire: nothing, empty, several of a name, null in a header.
SHAPES = [
    (b"k", b"v", [("h", b"1")]),
    (None, b"no key", []),
    (b"", b"", [("empty", b"")]),
    (b"gone", None, []),
    (b"many", "grüezi".encode(), [("a", b"1"), ("a", b"2"), ("null", None)]),
]
EXPECTED = [(n, START_MS + n, *shape) for n, shape in enumerate(SHAPES)]


def produce(node, topic, compression):
    producer = Producer({"bootstrap.servers": node.address, "compression.type": compression, "linger.ms": 20})
    for n, (key, value, headers) in enumerate(SHAPES):
        producer.produce(topic, value, key, 0, timestamp=START_MS + n, headers=headers)
    assert producer.flush(TIMEOUT_S) == 0


def consume(node, topic, count):
    """What librdkafka reads."""
    consumer = Consumer({"bootstrap.servers": node.address, "group.id": "alone", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(count, TIMEOUT_S)
        assert len(messages) == count
        return [(m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or []) for m in messages]
    finally:
        consumer.close()


def read(node, topic, count):
    """What the native client reads."""
    return [(r.offset, r.timestamp_ms, r.key, r.raw_value, list(r.headers)) for r in node.read(topic, count)]


def send(node, topic, compression):
    async def work(mq):
        for n, (key, value, headers) in enumerate(SHAPES):
            given = {name: content for name, content in headers if content is not None}
            await mq.send(
                topic, value, key=key, headers=given, timestamp_ms=START_MS + n, partition=0
            )  # fmt: skip

    async def run():
        async with dduomq.connect(node.address, compression=compression) as mq:
            await work(mq)

    node.native(lambda _mq: run())


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_kafka_sends_everybody_reads(node, topic, compression):
    """Keys, values, headers, times and offsets, null and empty ones apart."""
    produce(node, topic, compression)
    assert read(node, topic, len(SHAPES)) == EXPECTED
    assert consume(node, topic, len(SHAPES)) == EXPECTED


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_the_native_client_sends_everybody_reads(node, topic, compression):
    """The same; it gives each header a value, and one of each name."""
    send(node, topic, compression)
    seen = consume(node, topic, len(SHAPES))
    assert seen == read(node, topic, len(SHAPES))
    assert [row[:4] for row in seen] == [row[:4] for row in EXPECTED]
    assert seen[0][4] == [("h", b"1")]


def test_topics_of_one_are_topics_of_the_other(node, name):
    """Made, grown, configured and deleted from either side."""
    admin = AdminClient({"bootstrap.servers": node.address})
    admin.create_topics([NewTopic(name, 1, config={"retention.ms": "60000"})])[name].result(TIMEOUT_S)
    described = node.native(lambda mq: mq.admin.describe_topic(name))
    assert len(described.partitions) == 1
    node.native(lambda mq: mq.admin.add_partitions(name, 2))
    admin.create_partitions([NewPartitions(name, 3)])[name].result(TIMEOUT_S)
    assert len(admin.list_topics(timeout=TIMEOUT_S).topics[name].partitions) == 3
    topics = {topic.name: len(topic.partitions) for topic in node.native(lambda mq: mq.admin.list_topics())}
    assert topics[name] == 3
    node.native(lambda mq: mq.admin.delete_topic(name))
    assert name not in admin.list_topics(timeout=TIMEOUT_S).topics


def test_records_deleted_by_one_are_gone_for_the_other(node, topic):
    """A purge here is a DeleteRecords there."""
    node.send(topic, *(f"{n}" for n in range(10)))
    node.native(lambda mq: mq.admin.purge(topic, 0, 4))
    admin = AdminClient({"bootstrap.servers": node.address})
    where = TopicPartition(topic, 0, 6)
    (deleted,) = (future.result(TIMEOUT_S) for future in admin.delete_records([where]).values())
    assert deleted.low_watermark == 6
    assert node.native(lambda mq: mq.admin.offset(topic, 0, "earliest")) == 6
    assert [row[0] for row in read(node, topic, 4)] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("make", "native", "kafka"),
    [
        ({"name": "not allowed!"}, errors.InvalidTopic, KafkaError.TOPIC_EXCEPTION),
        ({"name": "many", "partitions": 10_001}, errors.InvalidPartitions, KafkaError.INVALID_PARTITIONS),
        ({"name": "odd", "config": {"retention.ms": "soon"}}, errors.InvalidConfig, KafkaError.INVALID_CONFIG),
    ],
)
def test_both_are_told_the_same_error(node, make, native, kafka):
    """The same code and the same sentence."""
    name, partitions, config = make["name"], make.get("partitions", 1), make.get("config", {})
    with pytest.raises(native) as ours:
        node.native(lambda mq: mq.admin.create_topic(name, partitions=partitions, config=config))
    admin = AdminClient({"bootstrap.servers": node.address})
    with pytest.raises(KafkaException) as theirs:
        admin.create_topics([NewTopic(name, partitions, config=config)])[name].result(TIMEOUT_S)
    assert theirs.value.args[0].code() == kafka == native.code
    assert theirs.value.args[0].str() == ours.value.message


def test_a_full_topic_says_so_to_both(node, name):
    """CapacityReached is POLICY_VIOLATION in Kafka's words."""
    topic = node.create(name, capacity_records=1)
    node.send(topic, "the only one")
    with pytest.raises(errors.CapacityReached):
        node.send(topic, "one too many")
    failed = []
    producer = Producer({"bootstrap.servers": node.address})
    producer.produce(topic, b"one too many", partition=0, on_delivery=lambda error, _message: failed.append(error))
    assert producer.flush(TIMEOUT_S) == 0
    assert failed[0].code() == KafkaError.POLICY_VIOLATION
