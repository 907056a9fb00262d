"""kafka-python: idempotent without being asked, and the client that speaks the most of the admin's APIs."""

import uuid
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import (
    InvalidReplicationFactorError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

TIMEOUT_S = 30
START_MS = 1_700_000_000_000


def producer(node, **options):
    return closing(KafkaProducer(bootstrap_servers=node.address, **options))


def produce(node, topic, messages, **options):
    """Sends messages (the arguments of `send`); their metadata, in order."""
    with producer(node, **options) as sender:
        sent = [sender.send(topic, **{"partition": 0, **message}) for message in messages]
        return [each.get(timeout=TIMEOUT_S) for each in sent]


def consumer(node, topic, **options):
    reader = KafkaConsumer(bootstrap_servers=node.address, auto_offset_reset="earliest", **options)
    reader.assign([TopicPartition(topic, 0)])
    return closing(reader)


def take(reader, count):
    """The next `count` records."""
    found = []
    while len(found) < count:
        polled = reader.poll(timeout_ms=TIMEOUT_S * 1000, max_records=count - len(found))
        assert polled, f"{len(found)} of {count} records came"
        found += [record for records in polled.values() for record in records]
    return found


@pytest.fixture(scope="module")
def admin(node):
    with closing(KafkaAdminClient(bootstrap_servers=node.address)) as client:
        yield client


# --- producing and fetching -------------------------------------------------------------------------


@pytest.mark.parametrize("acks", [1, "all"])
def test_acked_records_have_their_offsets(node, topic, acks):
    """As the answer says, so they are read."""
    messages = [{"value": b"%d" % n, "key": b"k", "headers": [("h", b"x")]} for n in range(20)]
    sent = produce(node, topic, messages, acks=acks, enable_idempotence=acks == "all")
    assert [each.offset for each in sent] == list(range(20))
    with consumer(node, topic) as reader:
        records = take(reader, 20)
    assert [(r.offset, r.key, r.value, list(r.headers)) for r in records] == [
        (n, b"k", b"%d" % n, [("h", b"x")]) for n in range(20)
    ]


def test_records_without_acks_arrive(node, topic):
    """acks=0 has no answer."""
    with producer(node, acks=0, enable_idempotence=False) as sender:
        sender.send(topic, b"v", partition=0)
        sender.flush(TIMEOUT_S)
    assert [record.value for record in node.read(topic, 1)] == [b"v"]


def test_every_codec_is_stored_as_it_came(node, name):
    """The codecs that this client has libraries for here; gzip always."""
    topics = {codec: node.create(f"{name}-{codec}") for codec in ("gzip", "snappy", "lz4", "zstd") if _has(codec)}
    for codec, topic in topics.items():
        produce(node, topic, [{"value": b"to be compressed " * 100}] * 5, compression_type=codec, linger_ms=50)
        with consumer(node, topic) as reader:
            assert {record.value for record in take(reader, 5)} == {b"to be compressed " * 100}
    stored = {batch["file"].split("/")[-2]: batch["compression"] for batch in node.dump(*topics.values())}
    assert stored == {f"{topic}-0": codec for codec, topic in topics.items()}


def _has(codec):
    from kafka import codec as codecs

    return getattr(codecs, f"has_{codec}")()


def test_a_batch_too_large_is_refused_clearly(node, name):
    """By the topic's limit, not the client's."""
    topic = node.create(name, max_message_bytes=1_000)
    with pytest.raises(MessageSizeTooLargeError):
        produce(node, topic, [{"value": b"x" * 5_000}])


def test_times_of_the_producer_and_of_the_broker(node, name):
    """CreateTime as it was given; LogAppendTime is the node's."""
    topics = [node.create(f"{name}-{kind}", message_timestamp_type=kind) for kind in ("CreateTime", "LogAppendTime")]
    sent = [produce(node, topic, [{"value": b"v", "timestamp_ms": START_MS}])[0] for topic in topics]
    with consumer(node, topics[0]) as reader:
        (created,) = take(reader, 1)
    with consumer(node, topics[1]) as reader:
        (appended,) = take(reader, 1)
    assert (created.timestamp, created.timestamp_type, sent[0].timestamp) == (START_MS, 0, START_MS)
    assert (appended.timestamp, appended.timestamp_type) == (sent[1].timestamp, 1)
    assert appended.timestamp > START_MS


def test_a_small_fetch_still_gets_a_batch(node, topic):
    """max_partition_fetch_bytes below the size of a batch."""
    produce(node, topic, [{"value": b"x" * 50_000}])
    with consumer(node, topic, max_partition_fetch_bytes=100, fetch_max_bytes=100) as reader:
        (record,) = take(reader, 1)
    assert len(record.value) == 50_000


def test_offsets_by_time_and_ends(node, topic):
    """As the consumer asks for them."""
    produce(node, topic, [{"value": b"v", "timestamp_ms": START_MS + 10 * n} for n in range(5)])
    where = TopicPartition(topic, 0)
    with consumer(node, topic) as reader:
        assert (reader.beginning_offsets([where]), reader.end_offsets([where])) == ({where: 0}, {where: 5})
        assert reader.offsets_for_times({where: START_MS + 11})[where].offset == 2
        assert reader.offsets_for_times({where: START_MS + 41})[where] is None


def test_nothing_is_read_twice_with_read_committed(node, topic):
    """All is committed where there are no transactions."""
    produce(node, topic, [{"value": b"%d" % n} for n in range(3)])
    with consumer(node, topic, isolation_level="read_committed") as reader:
        assert [record.offset for record in take(reader, 3)] == [0, 1, 2]


# --- administering ----------------------------------------------------------------------------------


def test_topics_are_made_and_deleted_by_name_and_by_id(admin, name):
    """A topic made again has another id; the old one leads nowhere."""
    made = admin.create_topics({name: {"num_partitions": 3, "configs": {"retention.ms": "60000"}}})["topics"][0]
    assert (made["num_partitions"], made["replication_factor"]) == (3, 1)
    assert made["configs"]["retention.ms"]["value"] == "60000"
    admin.delete_topics([name])
    (again,) = admin.create_topics([name])["topics"]
    assert (again["num_partitions"], again["topic_id"] != made["topic_id"]) == (2, True)
    (described,) = admin.describe_topics([_uuid(again["topic_id"])])
    assert described["name"] == name
    gone = admin.delete_topics([_uuid(made["topic_id"])], raise_errors=False)["topics"]
    assert gone[0]["error_code"] == 100
    admin.delete_topics([_uuid(again["topic_id"])])
    assert name not in admin.list_topics()


def _uuid(shown):
    return shown if isinstance(shown, uuid.UUID) else uuid.UUID(str(shown))


@pytest.mark.parametrize(
    ("topic", "how", "error"),
    [
        ("not allowed!", {}, InvalidTopicError),
        ("three", {"num_partitions": 1, "replication_factor": 3}, InvalidReplicationFactorError),
        ("elsewhere", {"assignments": {0: [9]}}, InvalidReplicationFactorError),
    ],
)
def test_topics_that_can_not_be(admin, topic, how, error):
    """Each with Kafka's own error."""
    with pytest.raises(error):
        admin.create_topics({topic: how})


def test_a_topic_that_is_there_and_one_that_is_not(admin, topic):
    """Made twice; deleted, grown, without being there; only tried."""
    with pytest.raises(TopicAlreadyExistsError):
        admin.create_topics([topic])
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.delete_topics(["nowhere"])
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.create_partitions({"nowhere": 3})
    admin.create_topics(["tried"], validate_only=True)
    assert "tried" not in admin.list_topics()


def test_partitions_are_added(admin, topic):
    """By number, and by a list of who holds the new ones."""
    admin.create_partitions({topic: 9}, validate_only=True)
    admin.create_partitions({topic: 2})
    admin.create_partitions({topic: {"count": 3, "assignments": [[1]]}})
    (described,) = admin.describe_topics([topic])
    assert [part["partition_index"] for part in described["partitions"]] == [0, 1, 2]


def test_partitions_are_described_page_by_page(admin, name):
    """DescribeTopicPartitions: the cursor leads on."""
    names = [f"{name}-{letter}" for letter in "ab"]
    admin.create_topics({each: {"num_partitions": 3} for each in names})
    pages, cursor = [], None
    while not pages or cursor is not None:
        page = admin.describe_topic_partitions(names, response_partition_limit=2, cursor=cursor)
        pages.append(page["topics"])
        cursor = page["next_cursor"]
    found = [
        (topic["name"], part["partition_index"]) for page in pages for topic in page for part in topic["partitions"]
    ]
    assert found == [(each, at) for each in names for at in range(3)]
    parts = [part for page in pages for topic in page for part in topic["partitions"]]
    assert all(part["leader_id"] == 1 for part in parts)
    (unknown,) = admin.describe_topic_partitions(["nowhere"])["topics"]
    assert unknown["error_code"] == UnknownTopicOrPartitionError.errno


@pytest.mark.parametrize("incremental", [True, False])
def test_settings_are_changed(admin, topic, incremental):
    """One by one, or as a whole."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "5000"})
    admin.alter_configs([resource], incremental=incremental)
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])["topic"][topic]
    assert found["retention.ms"]["value"] == "5000"
    admin.reset_configs([ConfigResource(ConfigResourceType.TOPIC, topic, ["retention.ms"])], incremental=incremental)
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])["topic"][topic]
    assert "retention.ms" not in found


def test_the_nodes_settings_are_to_be_read(admin):
    """Each says that it can't be changed."""
    found = admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")], config_filter="all")["broker"]["1"]
    assert found["default.partitions"]["value"] == "2"
    assert all(entry["read_only"] for entry in found.values())


def test_records_are_deleted(node, admin, topic):
    """Up to an offset, or all; not beyond the end."""
    produce(node, topic, [{"value": b"v"}] * 5)
    where = TopicPartition(topic, 0)
    assert admin.delete_records({where: 2})[where]["low_watermark"] == 2
    with pytest.raises(OffsetOutOfRangeError):
        admin.delete_records({where: 6})
    assert admin.delete_records({where: -1})[where]["low_watermark"] == 5


def test_offsets_are_listed(node, admin, topic):
    """Earliest, latest, of the largest time, of what is here, of what is stored elsewhere."""
    for later in (0, 30, 20):
        produce(node, topic, [{"value": b"v", "timestamp_ms": START_MS + later}])
    where = TopicPartition(topic, 0)
    specs = (OffsetSpec.EARLIEST, OffsetSpec.LATEST, OffsetSpec.MAX_TIMESTAMP, OffsetSpec.EARLIEST_LOCAL)
    found = [admin.list_partition_offsets({where: spec})[where] for spec in (*specs, START_MS + 1)]
    assert [each.offset for each in found] == [0, 3, 1, 0, 1]
    assert found[2].timestamp == START_MS + 30


def test_the_cluster_and_its_disk_are_described(node, admin, topic):
    """This node; the size of each partition."""
    produce(node, topic, [{"value": b"x" * 1_000}])
    cluster = admin.describe_cluster()
    assert [(each["broker_id"], each["port"]) for each in cluster["brokers"]] == [(1, node.port)]
    (answer,) = admin.describe_log_dirs()
    (directory,) = answer["log_dirs"]
    sizes = {each["name"]: each["partitions"][0]["partition_size"] for each in directory["topics"]}
    assert directory["log_dir"] == str(node.data)
    assert sizes[topic] > 1_000


def test_producers_are_described(node, admin, topic):
    """Who writes to a partition, and how far they are."""
    produce(node, topic, [{"value": b"v"}] * 3)
    where = TopicPartition(topic, 0)
    (state,) = admin.describe_producers([where])[where].active_producers
    assert (state.producer_epoch, state.last_sequence) == (0, 2)


def test_every_api_that_is_spoken_is_told(admin):
    """ApiVersions, as this client understood it."""
    from dduomq.wire.kafka.registry import APIS

    told = {int(key): tuple(versions) for key, versions in admin.api_versions().items()}
    assert told == {api.key: (api.first, api.last) for api in APIS.values()}
