"""aiokafka: the client of asyncio programs."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError, OffsetOutOfRangeError

TIMEOUT_S = 60
START_MS = 1_700_000_000_000


def run(work):
    """What a coroutine gives, within a time."""

    async def within():
        async with asyncio.timeout(TIMEOUT_S):
            return await work

    return asyncio.run(within())


async def produce(node, topic, messages, **options):
    """Sends messages (the arguments of `send`); their metadata, in order."""
    async with AIOKafkaProducer(bootstrap_servers=node.address, **options) as producer:
        sent = [await producer.send(topic, **{"partition": 0, **message}) for message in messages]
        return [await each for each in sent]


async def consume(node, topic, count, **options):
    """The first `count` records of partition 0."""
    options = {"auto_offset_reset": "earliest", **options}
    async with AIOKafkaConsumer(bootstrap_servers=node.address, **options) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        return [await consumer.getone() for _ in range(count)]


@pytest.mark.parametrize(
    "options", [{"acks": 1}, {"acks": "all"}, {"enable_idempotence": True}], ids=["leader", "all", "idempotent"]
)
def test_acked_records_have_their_offsets(node, topic, options):
    """Keys, values, headers and times arrive as they were sent."""
    messages = [
        {"key": b"k", "value": b"%d" % n, "headers": [("h", b"x")], "timestamp_ms": START_MS + n} for n in range(20)
    ]
    sent = run(produce(node, topic, messages, **options))
    assert [each.offset for each in sent] == list(range(20))
    records = run(consume(node, topic, 20))
    assert [(r.offset, r.key, r.value, list(r.headers), r.timestamp) for r in records] == [
        (n, b"k", b"%d" % n, [("h", b"x")], START_MS + n) for n in range(20)
    ]


def test_records_without_acks_arrive(node, topic):
    """acks=0 has no answer."""
    run(produce(node, topic, [{"value": b"v"}], acks=0))
    assert [record.value for record in node.read(topic, 1)] == [b"v"]


def test_null_values(node, topic):
    """A record without a value is not one with an empty value."""
    run(produce(node, topic, [{"key": b"k", "value": None}, {"value": b""}]))
    assert [(r.key, r.value) for r in run(consume(node, topic, 2))] == [(b"k", None), (None, b"")]


def test_every_codec_is_stored_as_it_came(node, name):
    """snappy is framed as Java's clients frame it."""
    topics = {codec: node.create(f"{name}-{codec}") for codec in ("gzip", "snappy", "lz4", "zstd")}
    for codec, topic in topics.items():
        run(produce(node, topic, [{"value": b"to be compressed " * 100}] * 5, compression_type=codec, linger_ms=50))
        assert {record.value for record in run(consume(node, topic, 5))} == {b"to be compressed " * 100}
        assert {record.value for record in node.read(topic, 5)} == {b"to be compressed " * 100}
    stored = {batch["file"].split("/")[-2]: batch["compression"] for batch in node.dump(*topics.values())}
    assert stored == {f"{topic}-0": codec for codec, topic in topics.items()}


def test_a_batch_too_large_is_refused_clearly(node, name):
    """By the topic's limit, not the client's."""
    topic = node.create(name, max_message_bytes=1_000)
    with pytest.raises(MessageSizeTooLargeError):
        run(produce(node, topic, [{"value": b"x" * 5_000}]))


def test_the_brokers_clock_may_tell_the_times(node, name):
    """The ack says which time it was."""
    topic = node.create(name, message_timestamp_type="LogAppendTime")
    (sent,) = run(produce(node, topic, [{"value": b"v", "timestamp_ms": START_MS}]))
    (record,) = run(consume(node, topic, 1))
    assert (record.timestamp, record.timestamp_type) == (sent.timestamp, 1)
    assert record.timestamp > START_MS


def test_a_waiting_consumer_wakes(node, topic):
    """A long poll of a minute ends with the first record."""

    async def story():
        more = {"fetch_max_wait_ms": 55_000, "request_timeout_ms": 58_000}
        waiting = asyncio.ensure_future(consume(node, topic, 1, **more))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await produce(node, topic, [{"value": b"wake up"}])
        return await waiting

    assert [record.value for record in run(story())] == [b"wake up"]


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_a_small_fetch_still_gets_a_batch(node, topic, isolation):
    """However little is asked for, a reader gets on."""
    run(produce(node, topic, [{"value": b"x" * 50_000}]))
    run(produce(node, topic, [{"value": b"y"}]))
    found = run(consume(node, topic, 2, max_partition_fetch_bytes=100, isolation_level=isolation))
    assert [len(record.value) for record in found] == [50_000, 1]


def test_out_of_range_begins_where_the_client_says(node, topic):
    """Or is an error, where it says nothing."""
    run(produce(node, topic, [{"value": b"v"}]))

    async def from_offset(reset):
        async with AIOKafkaConsumer(bootstrap_servers=node.address, auto_offset_reset=reset) as consumer:
            where = TopicPartition(topic, 0)
            consumer.assign([where])
            consumer.seek(where, 1_000)
            return await consumer.getone()

    assert run(from_offset("earliest")).offset == 0
    with pytest.raises(OffsetOutOfRangeError):
        run(from_offset("none"))


def test_offsets_by_time_and_ends(node, topic):
    """As the consumer asks for them."""
    run(produce(node, topic, [{"value": b"v", "timestamp_ms": START_MS + 10 * n} for n in range(5)]))
    where = TopicPartition(topic, 0)

    async def ends():
        async with AIOKafkaConsumer(bootstrap_servers=node.address) as consumer:
            times = await consumer.offsets_for_times({where: START_MS + 11})
            first, last = await consumer.beginning_offsets([where]), await consumer.end_offsets([where])
            return first[where], times[where].offset, last[where]

    assert run(ends()) == (0, 2, 5)


def test_administering(node, name):
    """Topics, partitions, settings, records, and the node itself."""

    async def story():
        admin = AIOKafkaAdminClient(bootstrap_servers=node.address)
        await admin.start()
        try:
            made = await admin.create_topics([NewTopic(name, 2, 1)])
            await admin.create_partitions({name: NewPartitions(3)})
            resource = ConfigResource(ConfigResourceType.TOPIC, name, {"retention.ms": "5000"})
            await admin.alter_configs([resource])
            (settings,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
            (topic,) = await admin.describe_topics([name])
            cluster = await admin.describe_cluster()
            where = await admin.find_coordinator("some-group")
            await admin.delete_topics([name])
            return made, settings, topic, cluster, where, await admin.list_topics()
        finally:
            await admin.close()

    made, settings, topic, cluster, where, listed = run(story())
    assert [error for _, error, *_ in made.topic_errors] == [0]
    values = {entry[0]: entry[1] for entry in settings.resources[0][4]}
    assert values["retention.ms"] == "5000"
    assert len(topic["partitions"]) == 3
    assert [(each["node_id"], each["port"]) for each in cluster["brokers"]] == [(1, node.port)]
    assert (where, name in listed) == (1, False)
