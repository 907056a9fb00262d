"""librdkafka, through confluent-kafka: producing, fetching and administering."""

from contextlib import closing

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

TIMEOUT_S = 30
START_MS = 1_700_000_000_000
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def options(node, **more):
    given = {key.replace("_", "."): value for key, value in more.items()}
    return {"bootstrap.servers": node.address, "log_level": 0, **given}


def produce(node, topic, messages, **more):
    """Sends messages (the arguments of `produce`); (offset or error) of each, in the order of their reports."""
    reports = []

    def report(error, message):
        reports.append(error if error is not None else message.offset())

    producer = Producer(options(node, **more))
    for message in messages:
        producer.produce(topic, on_delivery=report, **{"partition": 0, **message})
    assert producer.flush(TIMEOUT_S) == 0
    return reports


def consumer(node, topic, offset=0, **more):
    """A consumer of partition 0."""
    given = {"group_id": "alone", "enable_auto_commit": False, "auto_offset_reset": "error", "fetch_wait_max_ms": 50}
    reader = Consumer(options(node, **{**given, **more}))
    reader.assign([TopicPartition(topic, 0, offset)])
    return closing(reader)


def take(reader, count):
    """The next `count` messages."""
    messages = reader.consume(count, TIMEOUT_S)
    assert [message.error() for message in messages] == [None] * count
    return messages


def consume(node, topic, count, offset=0, **more):
    with consumer(node, topic, offset, **more) as reader:
        return take(reader, count)


@pytest.fixture(scope="module")
def admin(node):
    return AdminClient(options(node))


def done(futures):
    """The results of an admin's call, by what was asked for."""
    return {asked: future.result(TIMEOUT_S) for asked, future in futures.items()}


def failed(futures):
    """The error of an admin's call for one thing."""
    (future,) = futures.values()
    with pytest.raises(KafkaException) as caught:
        future.result(TIMEOUT_S)
    return caught.value.args[0]


# --- producing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("acks", ["1", "all"])
def test_acked_records_have_their_offsets(node, topic, acks):
    """Each report names the offset under which the record is found."""
    assert produce(node, topic, [{"value": f"{n}"} for n in range(50)], acks=acks) == list(range(50))
    assert [message.value() for message in consume(node, topic, 50)] == [b"%d" % n for n in range(50)]


def test_records_without_acks_arrive(node, topic):
    """acks=0 has no answer; the records are there all the same."""
    produce(node, topic, [{"value": f"{n}"} for n in range(50)], acks="0")
    assert [message.value() for message in consume(node, topic, 50)] == [b"%d" % n for n in range(50)]


def test_every_codec_is_stored_as_it_came(node, name):
    """The batch on the disk is compressed by the producer's codec; nobody packed it anew."""
    value = "to be compressed " * 100
    topics = {codec: node.create(f"{name}-{codec}") for codec in CODECS}
    for codec, topic in topics.items():
        produce(node, topic, [{"value": value}] * 20, compression_type=codec, linger_ms=50)
    batches = node.dump(*topics.values())
    assert {batch["compression"] for batch in batches} == set(CODECS)
    for codec, topic in topics.items():
        stored = {batch["compression"] for batch in batches if f"/{topic}-0/" in batch["file"]}
        assert stored == {codec}
        assert [message.value() for message in consume(node, topic, 20)] == [value.encode()] * 20


def test_keys_values_headers_and_times_arrive(node, topic):
    """Null and empty ones, too; the times are the producer's."""
    sent = [
        {"key": b"k", "value": b"v", "headers": [("a", b"1"), ("a", None), ("b", b"")], "timestamp": START_MS},
        {"key": None, "value": b"", "timestamp": START_MS + 1},
        {"key": b"", "value": None, "timestamp": START_MS + 2},
    ]
    produce(node, topic, sent)
    first, second, third = consume(node, topic, 3)
    assert (first.key(), first.value(), first.headers()) == (b"k", b"v", [("a", b"1"), ("a", None), ("b", b"")])
    assert (second.key(), second.value(), second.headers()) == (None, b"", None)
    assert (third.key(), third.value()) == (b"", None)
    times = [message.timestamp() for message in (first, second, third)]
    assert times == [(TIMESTAMP_CREATE_TIME, START_MS + n) for n in range(3)]


def test_the_brokers_clock_may_tell_the_times(node, name):
    """LogAppendTime: whatever time the producer gives, readers see the node's."""
    topic = node.create(name, message_timestamp_type="LogAppendTime")
    produce(node, topic, [{"value": b"v", "timestamp": START_MS}])
    (message,) = consume(node, topic, 1)
    kind, when = message.timestamp()
    assert kind == TIMESTAMP_LOG_APPEND_TIME
    assert when > START_MS


def test_an_idempotent_producer(node, topic):
    """Its batches carry its identity and their sequence."""
    assert produce(node, topic, [{"value": f"{n}"} for n in range(20)], enable_idempotence=True) == list(range(20))
    batches = node.dump(topic)
    assert all(batch["producer_id"] >= 0 for batch in batches)
    assert batches[0]["base_sequence"] == 0


def test_a_batch_too_large_is_refused_clearly(node, name):
    """The topic's max.message.bytes, whatever the client allows itself; what fits goes on."""
    topic = node.create(name, max_message_bytes=1_000)
    (error,) = produce(node, topic, [{"value": b"x" * 5_000}])
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert produce(node, topic, [{"value": b"x" * 500}]) == [0]


def test_a_partition_that_is_not_there(node, topic):
    """The client finds out by the metadata."""
    (error,) = produce(node, topic, [{"value": b"v", "partition": 7}], message_timeout_ms=5_000)
    assert error.code() == KafkaError._UNKNOWN_PARTITION


# --- fetching ---------------------------------------------------------------------------------------


def test_a_waiting_consumer_wakes(node, topic):
    """A long poll of a minute ends with the first record."""
    more = {"fetch_wait_max_ms": 60_000, "fetch_min_bytes": 1, "socket_timeout_ms": 120_000}
    with consumer(node, topic, **more) as reader:
        assert reader.poll(0.5) is None
        produce(node, topic, [{"value": b"wake up"}])
        (message,) = take(reader, 1)
    assert message.value() == b"wake up"


def test_a_batch_larger_than_what_is_asked_for_comes_whole(node, topic):
    """Otherwise a reader could never pass it."""
    values = [bytes([n]) * 50_000 for n in range(3)]
    for value in values:
        produce(node, topic, [{"value": value}])
    more = {"fetch_message_max_bytes": 1_000, "fetch_max_bytes": 1_000, "message_max_bytes": 1_000}
    assert [message.value() for message in consume(node, topic, 3, **more)] == values


@pytest.mark.parametrize(("reset", "expected"), [("earliest", b"0"), ("latest", b"new")])
def test_out_of_range_begins_where_the_client_says(node, topic, reset, expected):
    """auto.offset.reset, after an offset that is not there."""
    produce(node, topic, [{"value": f"{n}"} for n in range(3)])
    with consumer(node, topic, 1_000, auto_offset_reset=reset) as reader:
        if reset == "latest":
            assert reader.poll(1) is None
            produce(node, topic, [{"value": b"new"}])
        (message,) = take(reader, 1)
    assert message.value() == expected


def test_out_of_range_may_be_an_error(node, topic):
    """auto.offset.reset=error: the client says so."""
    produce(node, topic, [{"value": b"v"}])
    with consumer(node, topic, 1_000) as reader:
        message = reader.poll(TIMEOUT_S)
    assert message.error().code() == KafkaError._AUTO_OFFSET_RESET


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_both_isolation_levels_read(node, topic, isolation):
    """Without transactions they see the same."""
    produce(node, topic, [{"value": f"{n}"} for n in range(3)])
    assert len(consume(node, topic, 3, isolation_level=isolation)) == 3


def test_the_end_of_a_partition_is_seen(node, topic):
    """The high watermark travels with every answer."""
    produce(node, topic, [{"value": b"v"}])
    with consumer(node, topic, enable_partition_eof=True) as reader:
        take(reader, 1)
        assert reader.poll(TIMEOUT_S).error().code() == KafkaError._PARTITION_EOF
        assert reader.get_watermark_offsets(TopicPartition(topic, 0), TIMEOUT_S) == (0, 1)


def test_offsets_by_time(node, topic):
    """The first record that is not older; the end where there is none."""
    produce(node, topic, [{"value": f"{n}", "timestamp": START_MS + 10 * n} for n in range(5)])
    with consumer(node, topic) as reader:
        times = [START_MS - 1, START_MS + 11, START_MS + 40, START_MS + 41]
        wanted = [[TopicPartition(topic, 0, when)] for when in times]
        found = [reader.offsets_for_times(each, TIMEOUT_S)[0].offset for each in wanted]
    assert found == [0, 2, 4, -1]


# --- administering ----------------------------------------------------------------------------------


def test_topics_are_made_listed_and_deleted(node, admin, name):
    """Everybody sees them; a topic made again is another one."""
    done(admin.create_topics([NewTopic(name, 3)]))
    listed = admin.list_topics(timeout=TIMEOUT_S).topics
    assert sorted(listed[name].partitions) == [0, 1, 2]
    before = described(admin, name).topic_id
    done(admin.delete_topics([name]))
    assert name not in admin.list_topics(timeout=TIMEOUT_S).topics
    done(admin.create_topics([NewTopic(name, 1)]))
    assert str(described(admin, name).topic_id) != str(before)


def described(admin, name):
    return done(admin.describe_topics(TopicCollection([name])))[name]


def test_defaults_configs_and_assignments(node, admin, name):
    """-1 takes the node's default; settings are the topic's own; an assignment must name this node."""
    plain, own, placed = f"{name}-plain", f"{name}-own", f"{name}-placed"
    done(admin.create_topics([NewTopic(plain)]))
    done(admin.create_topics([NewTopic(own, 1, 1, config={"retention.ms": "60000"})]))
    done(admin.create_topics([NewTopic(placed, 2, replica_assignment=[[1], [1]])]))
    assert len(described(admin, plain).partitions) == 2
    assert len(described(admin, placed).partitions) == 2
    assert configs(admin, own)["retention.ms"].value == "60000"
    error = failed(admin.create_topics([NewTopic(f"{name}-far", 1, replica_assignment=[[2]])]))
    assert error.code() == KafkaError.INVALID_REPLICATION_FACTOR


def test_validate_only_makes_nothing(node, admin, name):
    """Faults are found, nothing is there afterwards."""
    done(admin.create_topics([NewTopic(name, 3)], validate_only=True))
    assert name not in admin.list_topics(timeout=TIMEOUT_S).topics


@pytest.mark.parametrize(
    ("topic", "code", "text"),
    [
        (NewTopic("not allowed!", 1), KafkaError.TOPIC_EXCEPTION, "not allowed!"),
        (NewTopic("replicated", 1, 3), KafkaError.INVALID_REPLICATION_FACTOR, "3 replicas"),
        (NewTopic("ten-thousand-and-one", 10_001), KafkaError.INVALID_PARTITIONS, "10001"),
        (NewTopic("set", 1, config={"retention.sm": "1"}), KafkaError.INVALID_CONFIG, "retention.ms"),
        (NewTopic("compacted", 1, config={"cleanup.policy": "compact"}), KafkaError.INVALID_CONFIG, "compact"),
    ],
)
def test_topics_that_can_not_be(admin, topic, code, text):
    """Kafka's code, and a sentence that says what is wrong."""
    error = failed(admin.create_topics([topic]))
    assert error.code() == code
    assert text in error.str()


def test_a_topic_that_is_there_already_or_is_not(admin, topic):
    """Made twice, deleted without being there."""
    assert failed(admin.create_topics([NewTopic(topic, 1)])).code() == KafkaError.TOPIC_ALREADY_EXISTS
    assert failed(admin.delete_topics(["nowhere"])).code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_partitions_are_added_never_taken(node, admin, topic):
    """What has been added is used at once."""
    done(admin.create_partitions([NewPartitions(topic, 3)]))
    assert produce(node, topic, [{"value": b"v", "partition": 2}]) == [0]
    assert failed(admin.create_partitions([NewPartitions(topic, 2)])).code() == KafkaError.INVALID_PARTITIONS
    assert failed(admin.create_partitions([NewPartitions("nowhere", 2)])).code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def configs(admin, name, kind="topic"):
    (found,) = done(admin.describe_configs([ConfigResource(kind, name)])).values()
    return found


def test_settings_are_changed_one_by_one(admin, topic):
    """What is not named stays; a deleted one has its default again."""
    keep = ConfigEntry("segment.bytes", "2048", incremental_operation=AlterConfigOpType.SET)
    change = ConfigEntry("retention.ms", "5000", incremental_operation=AlterConfigOpType.SET)
    done(admin.incremental_alter_configs([ConfigResource("topic", topic, incremental_configs=[keep, change])]))
    found = configs(admin, topic)
    assert (found["segment.bytes"].value, found["retention.ms"].value) == ("2048", "5000")
    assert not found["retention.ms"].is_default
    back = ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE)
    done(admin.incremental_alter_configs([ConfigResource("topic", topic, incremental_configs=[back])]))
    found = configs(admin, topic)
    assert (found["segment.bytes"].value, found["retention.ms"].is_default) == ("2048", True)


@pytest.mark.filterwarnings("ignore:alter_configs.*:DeprecationWarning")
def test_settings_are_replaced_as_a_whole(admin, topic):
    """The older call: what is not named goes back to its default."""
    done(admin.alter_configs([ConfigResource("topic", topic, set_config={"segment.bytes": "2048"})]))
    done(admin.alter_configs([ConfigResource("topic", topic, set_config={"retention.ms": "5000"})]))
    found = configs(admin, topic)
    assert (found["segment.bytes"].is_default, found["retention.ms"].value) == (True, "5000")


def test_the_nodes_settings_are_to_be_read(node, admin):
    """They are given at its start."""
    found = configs(admin, "1", "broker")
    assert found["default.partitions"].value == "2"
    assert found["default.partitions"].is_read_only
    change = ConfigEntry("default.partitions", "3", incremental_operation=AlterConfigOpType.SET)
    error = failed(admin.incremental_alter_configs([ConfigResource("broker", "1", incremental_configs=[change])]))
    assert error.code() == KafkaError.INVALID_REQUEST


def test_records_are_deleted_up_to_an_offset(node, admin, topic):
    """Readers begin behind them; an offset that is not there yet is an error."""
    produce(node, topic, [{"value": f"{n}"} for n in range(10)])
    (deleted,) = done(admin.delete_records([TopicPartition(topic, 0, 4)])).values()
    assert deleted.low_watermark == 4
    assert consume(node, topic, 1, OFFSET_BEGINNING)[0].offset() == 4
    error = failed(admin.delete_records([TopicPartition(topic, 0, 11)]))
    assert error.code() == KafkaError.OFFSET_OUT_OF_RANGE


def test_offsets_are_listed(node, admin, topic):
    """Earliest, latest, by time, and that of the largest time."""
    for later in (0, 30, 20):
        produce(node, topic, [{"value": b"v", "timestamp": START_MS + later}])
    where = TopicPartition(topic, 0)
    specs = [OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.for_timestamp(START_MS + 10)]
    found = [done(admin.list_offsets({where: spec}))[where].offset for spec in [*specs, OffsetSpec.max_timestamp()]]
    assert found == [0, 3, 1, 1]
    level = IsolationLevel.READ_COMMITTED
    committed = done(admin.list_offsets({where: OffsetSpec.latest()}, isolation_level=level))
    assert committed[where].offset == 3


def test_the_cluster_is_described(node, admin):
    """This node, where clients reach it."""
    cluster = admin.describe_cluster().result(TIMEOUT_S)
    assert [(each.id, each.host, each.port) for each in cluster.nodes] == [(1, "127.0.0.1", node.port)]
    assert cluster.controller.id == 1
    assert cluster.cluster_id == admin.list_topics(timeout=TIMEOUT_S).cluster_id
