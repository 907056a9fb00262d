"""The protocol by hand: every API in every version, and what no client would send."""

import pytest

from dduomq.wire.kafka.registry import APIS
from tests.kafka.foreign import Foreign, batch
from tests.kafka.nodes import eventually

UNKNOWN_TOPIC, UNSUPPORTED_VERSION, FENCED, UNKNOWN_EPOCH, UNKNOWN_ID = 3, 35, 74, 75, 100
VERSIONS = {api.name: range(api.first, api.last + 1) for api in APIS.values()}


@pytest.fixture
def wire(node):
    with Foreign(node) as connection:
        yield connection


def topic_id(wire, topic):
    (found,) = wire.ask("Metadata", 12, topics=[{"name": topic}])["topics"]
    return found["topic_id"]


def produce(wire, topic, *batches, version=9, acks=-1, given_id=None):
    """The answer for partition 0."""
    parts = [{"index": 0, "records": b"".join(batches)}]
    asked = {"name": topic, "topic_id": given_id, "partition_data": parts}
    answer = wire.ask("Produce", version, acks=acks, timeout_ms=30_000, topic_data=[asked])
    return answer["responses"][0]["partition_responses"][0]


def fetch(wire, topic, version=11, offset=0, given_id=None, wait_ms=0, **part):
    """(the answer, the answer for partition 0)"""
    asked = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20, **part}
    topics = [{"topic": topic, "topic_id": given_id, "partitions": [asked]}]
    answer = wire.ask("Fetch", version, max_wait_ms=wait_ms, min_bytes=1, topics=topics, forgotten_topics_data=[])
    return answer, answer["responses"][0]["partitions"][0]


# --- every version ----------------------------------------------------------------------------------


BODIES = {
    "Produce": {
        "acks": -1,
        "timeout_ms": 30_000,
        "topic_data": [{"name": "T", "topic_id": "ID", "partition_data": [{"index": 0, "records": batch(b"v")}]}],
    },
    "Fetch": {
        "max_wait_ms": 0,
        "topics": [
            {
                "topic": "T",
                "topic_id": "ID",
                "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}],
            }
        ],
        "forgotten_topics_data": [],
    },
    "ListOffsets": {"topics": [{"name": "T", "partitions": [{"partition_index": 0, "timestamp": -1}]}]},
    "Metadata": {"topics": [{"name": "T"}]},
    "FindCoordinator": {"key": "group", "key_type": 0, "coordinator_keys": ["group", "other"]},
    "ApiVersions": {"client_software_name": "test", "client_software_version": "1"},
    "CreateTopics": {
        "topics": [{"name": "NEW", "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}],
        "timeout_ms": 30_000,
    },
    "DeleteTopics": {"topics": [{"name": "MADE", "topic_id": None}], "topic_names": ["MADE"], "timeout_ms": 30_000},
    "DeleteRecords": {"topics": [{"name": "T", "partitions": [{"partition_index": 0, "offset": 0}]}]},
    "InitProducerId": {"transactional_id": None, "transaction_timeout_ms": 1_000},
    "OffsetForLeaderEpoch": {
        "topics": [{"topic": "T", "partitions": [{"partition": 0, "current_leader_epoch": -1, "leader_epoch": 0}]}]
    },
    "DescribeConfigs": {"resources": [{"resource_type": 2, "resource_name": "T", "configuration_keys": None}]},
    "AlterConfigs": {
        "resources": [
            {"resource_type": 2, "resource_name": "T", "configs": [{"name": "retention.ms", "value": "5000"}]}
        ],
        "validate_only": False,
    },
    "IncrementalAlterConfigs": {
        "resources": [
            {
                "resource_type": 2,
                "resource_name": "T",
                "configs": [{"name": "retention.ms", "config_operation": 0, "value": "7000"}],
            }
        ],
        "validate_only": False,
    },
    "DescribeLogDirs": {"topics": [{"topic": "T", "partitions": [0]}]},
    "CreatePartitions": {
        "topics": [{"name": "T", "count": "MORE", "assignments": None}],
        "timeout_ms": 30_000,
        "validate_only": False,
    },
    "DescribeCluster": {"include_cluster_authorized_operations": False},
    "DescribeProducers": {"topics": [{"name": "T", "partition_indexes": [0]}]},
    "ElectLeaders": {"election_type": 0, "topic_partitions": None, "timeout_ms": 30_000},
    "AlterPartitionReassignments": {
        "topics": [{"name": "T", "partitions": [{"partition_index": 0, "replicas": [1]}]}],
        "timeout_ms": 30_000,
    },
    "ListPartitionReassignments": {"topics": None, "timeout_ms": 30_000},
    "DescribeTopicPartitions": {"topics": [{"name": "T"}], "response_partition_limit": 10, "cursor": None},
}
REFUSED = {("Produce", version) for version in range(3)}


def put_in(body, values):
    """`body` with placeholders replaced."""
    if isinstance(body, dict):
        return {name: put_in(value, values) for name, value in body.items()}
    if isinstance(body, list):
        return [put_in(value, values) for value in body]
    return values.get(body, body) if isinstance(body, str) else body


def errors(answer):
    """Every error code in an answer."""
    if isinstance(answer, dict):
        own = [answer["error_code"]] if "error_code" in answer else []
        return own + [code for value in answer.values() for code in errors(value)]
    if isinstance(answer, (list, tuple)):
        return [code for value in answer for code in errors(value)]
    return []


@pytest.mark.parametrize("api", BODIES)
def test_every_version_is_answered(node, wire, topic, api):
    """Whoever reads the answer finds each field where its version has it, and no error."""
    given = topic_id(wire, topic)
    for version in VERSIONS[api]:
        values = {
            "T": topic,
            "ID": given,
            "NEW": f"{topic}-new-{version}",
            "MADE": f"{topic}-made",
            "MORE": version + 2,
        }
        if api == "DeleteTopics":
            node.create(values["MADE"])
        answer = wire.ask(api, version, **put_in(BODIES[api], values))
        expected = UNSUPPORTED_VERSION if (api, version) in REFUSED else 0
        assert {*errors(answer)} <= {expected}, f"version {version}: {answer}"
        assert expected == 0 or errors(answer)


def test_every_api_is_tried():
    """Those of groups have tests of their own."""
    groups = {"OffsetCommit", "OffsetFetch", "OffsetDelete", "JoinGroup", "Heartbeat", "LeaveGroup", "SyncGroup"}
    groups |= {"DescribeGroups", "ListGroups", "DeleteGroups", "ShareFetch", "ShareAcknowledge"}
    assert {*VERSIONS} >= {*BODIES}
    assert {name for name in VERSIONS if "Group" not in name} - groups - {*BODIES} == set()


# --- versions ---------------------------------------------------------------------------------------


def test_an_unknown_version_of_api_versions_is_answered_in_the_oldest(node, wire):
    """With error 35 and the full list (KIP-511); the connection goes on."""
    header = (18).to_bytes(2, "big") + (9).to_bytes(2, "big") + (77).to_bytes(4, "big") + b"\x00\x01x\x00"
    wire.socket.sendall((len(header) + 3).to_bytes(4, "big") + header + b"\x01\x01\x00")
    correlation, answer = wire.receive("ApiVersions", 0)
    assert (correlation, answer["error_code"]) == (77, UNSUPPORTED_VERSION)
    assert {key["api_key"] for key in answer["api_keys"]} == {*APIS}
    assert wire.ask("ApiVersions", 3, client_software_name="x", client_software_version="1")["error_code"] == 0


@pytest.mark.parametrize(
    ("key", "version", "reason"),
    [(999, 0, "API 999 is not spoken"), (3, 99, "Metadata is spoken here in versions"), (1, 3, "Fetch is spoken")],
)
def test_what_is_not_spoken_closes_the_connection(node, wire, key, version, reason):
    """With one line in the log; the node serves others as before."""
    before = len(node.events)
    header = key.to_bytes(2, "big") + version.to_bytes(2, "big") + (1).to_bytes(4, "big") + b"\xff\xff"
    wire.ask("Metadata", 1, topics=[])
    wire.socket.sendall(len(header).to_bytes(4, "big") + header)
    assert wire.is_closed()
    eventually(lambda: node.closings(before))
    with Foreign(node) as other:
        other.ask("Metadata", 1, topics=[])
    (line,) = node.closings(before)
    assert reason in line


# --- order ------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_their_requests(node, name):
    """Produce waits for the disk, Metadata for nothing; yet neither passes the other."""
    topic = node.create(name, durability="fsync")
    data = [{"name": topic, "partition_data": [{"index": 0, "records": batch(b"v" * 1_000)}]}]
    with Foreign(node) as wire:
        frames, expected = [], []
        for _ in range(30):
            produced = wire.encoded("Produce", 7, acks=-1, timeout_ms=30_000, topic_data=data)
            asked = wire.encoded("Metadata", 8, topics=[{"name": topic}])
            frames += [produced[0], asked[0]]
            expected += [("Produce", 7, produced[1]), ("Metadata", 8, asked[1])]
        wire.socket.sendall(b"".join(frames))
        offsets = []
        for api, version, correlation in expected:
            answered, answer = wire.receive(api, version)
            assert answered == correlation
            assert not any(errors(answer))
            if api == "Produce":
                offsets.append(answer["responses"][0]["partition_responses"][0]["base_offset"])
    assert offsets == list(range(30))


# --- produce ----------------------------------------------------------------------------------------


def test_produce_without_acks_to_nowhere_closes_the_connection(node, wire):
    """It is the only way to say that something was lost."""
    before = len(node.events)
    data = [{"name": "nowhere", "partition_data": [{"index": 0, "records": batch(b"v")}]}]
    wire.send("Produce", 9, acks=0, timeout_ms=1_000, topic_data=data)
    assert wire.is_closed()
    (line,) = eventually(lambda: node.closings(before))
    assert "nowhere" in line


def test_produce_with_acks_to_nowhere_is_an_error(wire, topic):
    """The connection goes on."""
    assert produce(wire, "nowhere", batch(b"v"))["error_code"] == UNKNOWN_TOPIC
    assert produce(wire, topic, batch(b"v"), acks=7)["error_code"] == 21
    assert produce(wire, topic, batch(b"v"))["base_offset"] == 0


def test_a_broken_batch_is_refused(wire, topic):
    """A flipped bit does not get to the disk."""
    broken = bytearray(batch(b"value"))
    broken[-3] ^= 1
    assert produce(wire, topic, bytes(broken))["error_code"] == 2
    assert fetch(wire, topic)[1]["high_watermark"] == 0


def test_the_same_sequence_again_is_acked_not_stored(wire, topic):
    """With the offset of the first time; a gap is an error."""
    given = wire.ask("InitProducerId", 4, transactional_id=None, transaction_timeout_ms=1_000)
    who = {"producer_id": given["producer_id"], "producer_epoch": given["producer_epoch"]}
    first, second = (batch(b"v", base_sequence=number, **who) for number in range(2))
    offsets = [produce(wire, topic, each, acks=1)["base_offset"] for each in (first, second, first, second)]
    assert offsets == [0, 1, 0, 1]
    assert produce(wire, topic, batch(b"v", base_sequence=7, **who))["error_code"] == 45
    assert fetch(wire, topic)[1]["high_watermark"] == 2


def test_a_producer_is_fenced_by_its_next_epoch(wire, topic):
    """InitProducerId with an id gives the next epoch; the older one is refused."""
    old = wire.ask("InitProducerId", 4, transactional_id=None, transaction_timeout_ms=1_000)
    producer_id = old["producer_id"]
    new = wire.ask(
        "InitProducerId", 4, transactional_id=None, transaction_timeout_ms=1_000, producer_id=producer_id,
        producer_epoch=old["producer_epoch"],
    )  # fmt: skip
    assert (new["producer_id"], new["producer_epoch"]) == (producer_id, 1)
    assert (
        produce(wire, topic, batch(b"v", producer_id=producer_id, producer_epoch=1, base_sequence=0))["error_code"] == 0
    )
    late = produce(wire, topic, batch(b"v", producer_id=producer_id, producer_epoch=0, base_sequence=0))
    assert late["error_code"] == 47


def test_transactions_are_refused_clearly(wire):
    """Until they are spoken."""
    answer = wire.ask("InitProducerId", 4, transactional_id="t", transaction_timeout_ms=1_000)
    assert answer["error_code"] == UNSUPPORTED_VERSION


# --- fetch ------------------------------------------------------------------------------------------


def test_fetch_sessions_are_refused(wire, topic):
    """Session 0 in the answer: ask for everything each time; a made-up session is not known."""
    assert fetch(wire, topic)[0]["session_id"] == 0
    answer = wire.ask(
        "Fetch", 11, max_wait_ms=0, session_id=5, session_epoch=1, topics=[], forgotten_topics_data=[]
    )  # fmt: skip
    assert (answer["error_code"], answer["session_id"]) == (70, 0)


def test_a_topic_made_again_has_another_id(node, wire, topic):
    """Who still knows the old one is told so."""
    old = topic_id(wire, topic)
    node.native(lambda mq: mq.admin.delete_topic(topic))
    node.create(topic)
    new = topic_id(wire, topic)
    assert new != old
    assert fetch(wire, None, version=13, given_id=old)[1]["error_code"] == UNKNOWN_ID
    assert fetch(wire, None, version=13, given_id=new)[1]["error_code"] == 0
    assert produce(wire, None, batch(b"v"), version=13, given_id=old)["error_code"] == UNKNOWN_ID
    assert produce(wire, None, batch(b"v"), version=13, given_id=new)["error_code"] == 0


def test_errors_of_fetch(wire, topic):
    """An offset that is not there, an epoch of the past and one of the future, a topic that is not there."""
    now = metadata_epoch(wire, topic)
    assert fetch(wire, topic, offset=1)[1]["error_code"] == 1
    assert fetch(wire, topic, current_leader_epoch=now)[1]["error_code"] == 0
    assert fetch(wire, topic, current_leader_epoch=now + 1)[1]["error_code"] == UNKNOWN_EPOCH
    assert now == 0 or fetch(wire, topic, current_leader_epoch=now - 1)[1]["error_code"] == FENCED
    assert fetch(wire, "nowhere")[1]["error_code"] == UNKNOWN_TOPIC


def metadata_epoch(wire, topic):
    (found,) = wire.ask("Metadata", 8, topics=[{"name": topic}])["topics"]
    return found["partitions"][0]["leader_epoch"]


def test_min_bytes_are_waited_for(node, wire, topic):
    """A fetch that wants more than there is waits, and then has all that has come."""
    produce(wire, topic, batch(b"first"))
    asked = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}
    topics = [{"topic": topic, "partitions": [asked]}]
    wire.send("Fetch", 11, max_wait_ms=1_000, min_bytes=50_000, topics=topics, forgotten_topics_data=[])
    with Foreign(node) as other:
        produce(other, topic, batch(b"x" * 60_000))
    _, answer = wire.receive("Fetch", 11)
    part = answer["responses"][0]["partitions"][0]
    assert part["high_watermark"] == 2
    assert len(part["records"]) > 60_000


def test_max_wait_ends_a_fetch_that_has_nothing(wire, topic):
    """It is answered, though nothing came."""
    answer, part = fetch(wire, topic, wait_ms=200)
    assert (answer["error_code"], part["error_code"], part["records"] or b"") == (0, 0, b"")


def test_max_bytes_bound_an_answer_of_many_partitions(node, name, wire):
    """What does not fit is left for the next time; the first batch always comes."""
    topic = node.create(name, partitions=3)
    for at in range(3):
        data = [{"name": topic, "partition_data": [{"index": at, "records": batch(b"x" * 10_000)}]}]
        assert not any(errors(wire.ask("Produce", 9, acks=1, timeout_ms=30_000, topic_data=data)))
    parts = [{"partition": at, "fetch_offset": 0, "partition_max_bytes": 1 << 20} for at in range(3)]
    topics = [{"topic": topic, "partitions": parts}]
    for limit, expected in ((1, 1), (25_000, 2), (1 << 20, 3)):
        answer = wire.ask(
            "Fetch", 11, max_wait_ms=0, min_bytes=1, max_bytes=limit, topics=topics, forgotten_topics_data=[]
        )  # fmt: skip
        sizes = [len(part["records"] or b"") for part in answer["responses"][0]["partitions"]]
        assert sum(size > 0 for size in sizes) == expected


# --- the rest ---------------------------------------------------------------------------------------


def test_where_an_epoch_ends(wire, topic):
    """The epoch of now ends where the log does."""
    produce(wire, topic, batch(b"a", b"b"))
    now = metadata_epoch(wire, topic)
    asked = {"partition": 0, "current_leader_epoch": now, "leader_epoch": now}
    answer = wire.ask("OffsetForLeaderEpoch", 3, replica_id=-2, topics=[{"topic": topic, "partitions": [asked]}])
    (part,) = answer["topics"][0]["partitions"]
    assert (part["error_code"], part["leader_epoch"], part["end_offset"]) == (0, now, 2)
    asked["current_leader_epoch"] = now + 1
    answer = wire.ask("OffsetForLeaderEpoch", 3, replica_id=-2, topics=[{"topic": topic, "partitions": [asked]}])
    assert answer["topics"][0]["partitions"][0]["error_code"] == UNKNOWN_EPOCH


@pytest.mark.parametrize(("allowed", "code"), [(True, 0), (False, UNKNOWN_TOPIC)])
def test_metadata_makes_a_topic_when_it_may(wire, name, allowed, code):
    """allow_auto_topic_creation is the client's word."""
    (topic,) = wire.ask("Metadata", 9, topics=[{"name": name}], allow_auto_topic_creation=allowed)["topics"]
    assert (topic["error_code"], len(topic["partitions"])) == (code, 2 if allowed else 0)


def test_metadata_of_all_of_some_and_of_none(wire, topic):
    """Null is all, an empty list is none, but for version 0, which has no null."""
    every = {each["name"] for each in wire.ask("Metadata", 9, topics=None)["topics"]}
    assert topic in every
    assert {each["name"] for each in wire.ask("Metadata", 0, topics=[])["topics"]} == every
    assert wire.ask("Metadata", 9, topics=[])["topics"] == []
    some = wire.ask("Metadata", 9, topics=[{"name": topic}, {"name": "bad name"}], allow_auto_topic_creation=True)
    assert [(each["name"], each["error_code"]) for each in some["topics"]] == [(topic, 0), ("bad name", 17)]


def test_nothing_is_null_that_clients_count_on(wire, topic):
    """Java's client takes the eligible leaders for a list, though the protocol lets them be null."""
    answer = wire.ask("DescribeTopicPartitions", 0, topics=[{"name": topic}], response_partition_limit=10, cursor=None)
    (part,) = answer["topics"][0]["partitions"]
    assert (part["eligible_leader_replicas"], part["last_known_elr"]) == ([], [])


def test_groups_are_coordinated_here(node, wire):
    """Old and new form; transactions have no coordinator yet."""
    answer = wire.ask("FindCoordinator", 2, key="g", key_type=0)
    assert (answer["node_id"], answer["port"]) == (1, node.port)
    many = wire.ask("FindCoordinator", 4, key_type=0, coordinator_keys=["g", "h"])["coordinators"]
    assert [(each["key"], each["node_id"], each["port"]) for each in many] == [(key, 1, node.port) for key in "gh"]
    assert wire.ask("FindCoordinator", 2, key="t", key_type=1)["error_code"] != 0


def test_nothing_is_stored_elsewhere(wire, topic):
    """What ListOffsets asks of tiered storage is not there, which is no error; the local start is the start."""
    produce(wire, topic, batch(b"v"))
    parts = [{"partition_index": 0, "timestamp": when} for when in (-4, -5, -6)]
    answer = wire.ask("ListOffsets", 11, topics=[{"name": topic, "partitions": parts}])
    found = [(part["error_code"], part["offset"]) for part in answer["topics"][0]["partitions"]]
    assert found == [(0, 0), (0, -1), (0, -1)]


@pytest.mark.parametrize(("kind", "code"), [(1, 0), (2, 114), (9, 115)])
def test_controllers_are_not_to_be_found_here(wire, kind, code):
    """The kind of endpoint is a mismatch, or unknown."""
    assert wire.ask("DescribeCluster", 2, endpoint_type=kind)["error_code"] == code


def test_a_time_too_far_ahead_is_refused(wire, topic):
    """A record from the future would keep its segment for as long."""
    late = batch(b"v", timestamp=2**62)
    assert produce(wire, topic, late)["error_code"] == 32


def test_the_brokers_own_topics_are_left_alone(wire):
    """Nobody writes to them, deletes them, or takes a name that may become one of theirs."""
    wire.ask("FindCoordinator", 2, key="g", key_type=0)
    assert produce(wire, "__groups", batch(b"v"))["error_code"] != 0
    (deleted,) = wire.ask("DeleteTopics", 5, topic_names=["__groups"], timeout_ms=1_000)["responses"]
    assert deleted["error_code"] != 0
    made = {"name": "__mine", "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
    (answer,) = wire.ask("CreateTopics", 7, topics=[made], timeout_ms=1_000)["topics"]
    assert answer["error_code"] == 17


def test_a_topic_named_twice_is_made_by_neither(wire, name):
    """Each is told."""
    made = {"name": name, "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
    answer = wire.ask("CreateTopics", 7, topics=[made, made], timeout_ms=30_000)
    assert {topic["error_code"] for topic in answer["topics"]} == {42}
    (found,) = wire.ask("Metadata", 9, topics=[{"name": name}], allow_auto_topic_creation=False)["topics"]
    assert found["error_code"] == UNKNOWN_TOPIC


def test_min_bytes_wake_when_they_are_there(node, wire, topic):
    """Some bytes, but fewer than are asked for: the fetch is woken by those that are missing, not by its time."""
    produce(wire, topic, batch(b"first"))
    asked = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}
    topics = [{"topic": topic, "partitions": [asked]}]
    wire.socket.settimeout(20)
    wire.send("Fetch", 11, max_wait_ms=60_000, min_bytes=50_000, topics=topics, forgotten_topics_data=[])
    with Foreign(node) as other:
        produce(other, topic, batch(b"x" * 60_000))
    _, answer = wire.receive("Fetch", 11)
    assert len(answer["responses"][0]["partitions"][0]["records"]) > 60_000


def test_max_timestamp_is_the_records_own_offset(wire, topic):
    """Not the last one of its batch."""
    from kafka.record.memory_records import MemoryRecordsBuilder

    builder = MemoryRecordsBuilder(2, 0, 100_000)
    for later in (1000, 1030, 1020):
        builder.append(timestamp=1_700_000_000_000 + later, key=None, value=b"v", headers=[])
    builder.close()
    produce(wire, topic, bytes(builder.buffer()))
    parts = [{"partition_index": 0, "timestamp": -3}]
    part = wire.ask("ListOffsets", 8, topics=[{"name": topic, "partitions": parts}])["topics"][0]["partitions"][0]
    assert (part["offset"], part["timestamp"]) == (1, 1_700_000_001_030)


def test_an_epoch_to_come_is_not_known(wire, topic):
    """So a client whose history is longer than this log's learns that it is gone."""
    produce(wire, topic, batch(b"a"))
    ask = {"partition": 0, "current_leader_epoch": -1, "leader_epoch": metadata_epoch(wire, topic) + 1}
    answer = wire.ask("OffsetForLeaderEpoch", 3, replica_id=-2, topics=[{"topic": topic, "partitions": [ask]}])
    part = answer["topics"][0]["partitions"][0]
    assert (part["leader_epoch"], part["end_offset"]) == (-1, -1)
