"""The native protocol's requests and answers: frozen values to small CBOR arrays and back.

A request's header is `[api, version, correlation, timeout_ms, body]`, an answer's `[correlation, code,
message, body]`. Bodies are arrays in the order of the class's fields; nested values are arrays too. Fields
may be added at the end: unknown trailing ones are ignored, missing ones take their default. Record batches
are never inside the CBOR: they are the frame's payload, one after another in the order of the body.

Always true: decoding raises `WireError` or returns a value, nothing else.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import attrs

from dduomq.errors import WireError
from dduomq.wire import cluster_errors as cluster_errors  # so that they are known when they arrive
from dduomq.wire import native_cluster as cluster
from dduomq.wire import native_delay as delay
from dduomq.wire import native_groups as groups
from dduomq.wire import native_letters as letters
from dduomq.wire import native_queue as queue
from dduomq.wire import native_routes as routes
from dduomq.wire import native_schedule as schedule
from dduomq.wire.plain import from_plain as from_plain
from dduomq.wire.plain import to_plain as to_plain

PROTOCOL_VERSION = 1


class Api(IntEnum):
    """Numbers on the wire; never reused."""

    HELLO = 1
    PRODUCE = 2
    FETCH = 3
    METADATA = 4
    LIST_OFFSETS = 5
    INIT_PRODUCER = 6
    CREATE_TOPIC = 10
    DELETE_TOPIC = 11
    ADD_PARTITIONS = 12
    DELETE_RECORDS = 13
    DESCRIBE_TOPIC = 14
    ALTER_TOPIC = 15
    RESTORE_LOG = 16
    GROUP_HEARTBEAT = 20
    COMMIT_OFFSETS = 21
    FETCH_COMMITTED = 22
    FORGET_OFFSETS = 23
    LIST_GROUPS = 24
    DESCRIBE_GROUP = 25
    DELETE_GROUP = 26
    REMOVE_MEMBER = 27
    FIND_COORDINATOR = 28
    PUSH = 30
    CREDIT = 31
    QUEUE_HEARTBEAT = 32
    TAKE_RECORDS = 33
    SETTLE_RECORDS = 34
    DESCRIBE_QUEUE = 35
    MOVE_QUEUE = 36
    LIST_DELAYED = 40
    CANCEL_DELAYED = 41
    RESCHEDULE_DELAYED = 42
    ADD_SCHEDULE = 43
    LIST_SCHEDULES = 44
    PAUSE_SCHEDULE = 45
    DELETE_SCHEDULE = 46
    SET_ASIDE = 50
    MOVE_LETTERS = 51
    LIST_LETTERS = 52
    DESCRIBE_CLUSTER = 60
    REASSIGN = 61
    DESCRIBE_PARTITIONS = 62
    ELECT_LEADERS = 63
    DRAIN_NODE = 64
    PLAN_MOVES = 65
    REMOVE_NODE = 66


class Isolation(IntEnum):
    READ_UNCOMMITTED = 0
    READ_COMMITTED = 1


EARLIEST = -2
LATEST = -1
MAX_TIMESTAMP = -3
UNKNOWN_MARK = -1


@attrs.frozen
class Hello:
    """The first request of every connection."""

    version: int
    client: str
    features: tuple[str, ...] = ()


@attrs.frozen
class HelloAnswer:
    version: int
    server: str
    node_id: int
    cluster_id: str
    frame_bytes_max: int
    features: tuple[str, ...] = ()


@attrs.frozen
class ProducePart:
    """One partition's batches: `size` bytes of the payload, in order."""

    topic: str
    partition: int
    size: int


@attrs.frozen
class Produce:
    """acks: 0 no answer, 1 the leader has it, -1 all in-sync replicas have it."""

    acks: int
    parts: tuple[ProducePart, ...]


@attrs.frozen
class DelayedRecord:
    """A record that comes later: its place in the batch, and its id."""

    delta: int
    delay_id: str


@attrs.frozen
class ProducedPart:
    """`durability` names the level the ack rests on: fsync, flushed or pagecache."""

    code: int
    message: str | None
    base_offset: int
    append_time_ms: int
    log_start_offset: int
    durability: str
    delayed: tuple[DelayedRecord, ...] = ()


@attrs.frozen
class Produced:
    parts: tuple[ProducedPart, ...]


@attrs.frozen
class FetchPart:
    topic: str
    partition: int
    offset: int
    max_bytes: int
    leader_epoch: int = -1


@attrs.frozen
class Fetch:
    """`filter`: only records that match; see `dduomq.query.filter`."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation: int
    parts: tuple[FetchPart, ...]
    filter: str | None = None


@attrs.frozen
class FetchedPart:
    """`size` bytes of the payload are this partition's batches; aborted: (producer id, first offset).

    The high watermark never goes back: a new leader that does not know it yet says `UNKNOWN_MARK`.
    """

    code: int
    message: str | None
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    size: int
    aborted: tuple[tuple[int, int], ...] = ()


@attrs.frozen
class Fetched:
    parts: tuple[FetchedPart, ...]


@attrs.frozen
class Metadata:
    """`topics` None means all. `create` makes missing topics where auto-creation is on."""

    topics: tuple[str, ...] | None
    create: bool = False


@attrs.frozen
class NodeAddress:
    node_id: int
    host: str
    port: int


@attrs.frozen
class PartitionMetadata:
    code: int
    partition: int
    leader: int
    leader_epoch: int


@attrs.frozen
class TopicMetadata:
    code: int
    message: str | None
    name: str
    topic_id: str
    internal: bool
    max_message_bytes: int
    partitions: tuple[PartitionMetadata, ...]
    ttl_ms: int = -1
    ttl_action: str = "skip"


@attrs.frozen
class MetadataAnswer:
    cluster_id: str
    controller: int
    nodes: tuple[NodeAddress, ...]
    topics: tuple[TopicMetadata, ...]


@attrs.frozen
class OffsetQuery:
    """`timestamp_ms`: a time, or EARLIEST, LATEST, MAX_TIMESTAMP."""

    topic: str
    partition: int
    timestamp_ms: int


@attrs.frozen
class ListOffsets:
    isolation: int
    queries: tuple[OffsetQuery, ...]


@attrs.frozen
class OffsetFound:
    """The first record at or after the time asked for; offset -1 where there is none."""

    code: int
    message: str | None
    timestamp_ms: int
    offset: int
    leader_epoch: int


@attrs.frozen
class OffsetsFound:
    found: tuple[OffsetFound, ...]


@attrs.frozen
class InitProducer:
    producer_id: int = -1
    producer_epoch: int = -1


@attrs.frozen
class ProducerIdentity:
    producer_id: int
    producer_epoch: int


@attrs.frozen
class CreateTopic:
    """`partitions` and `replication` 0: the node's defaults. `assignment`: the replicas of each partition, by hand."""

    name: str
    partitions: int = 0
    replication: int = 0
    config: Mapping[str, str] = attrs.field(factory=dict)
    validate_only: bool = False
    assignment: tuple[tuple[int, ...], ...] = ()


@attrs.frozen
class DeleteTopic:
    name: str


@attrs.frozen
class AddPartitions:
    """Raise the number of partitions to `total`."""

    name: str
    total: int


@attrs.frozen
class PurgePart:
    """Delete all records before `offset`; -1 means before the high watermark."""

    topic: str
    partition: int
    offset: int


@attrs.frozen
class DeleteRecords:
    parts: tuple[PurgePart, ...]


@attrs.frozen
class PurgedPart:
    code: int
    message: str | None
    log_start_offset: int


@attrs.frozen
class Purged:
    parts: tuple[PurgedPart, ...]


@attrs.frozen
class DescribeTopic:
    name: str


@attrs.frozen
class ConfigEntry:
    key: str
    value: str
    is_default: bool
    doc: str


@attrs.frozen
class PartitionDescription:
    partition: int
    leader: int
    leader_epoch: int
    log_start_offset: int
    log_end_offset: int
    high_watermark: int
    flushed_offset: int
    size_bytes: int
    segments: int
    state: str


@attrs.frozen
class TopicDescription:
    name: str
    topic_id: str
    partitions: tuple[PartitionDescription, ...]
    config: tuple[ConfigEntry, ...]


@attrs.frozen
class AlterTopic:
    """Set and unset configuration keys."""

    name: str
    set: Mapping[str, str] = attrs.field(factory=dict)
    unset: tuple[str, ...] = ()


@attrs.frozen
class RestoreLog:
    """Bring a log that a disk failure took offline back: what was not synced is written anew."""

    topic: str
    partition: int


@attrs.frozen
class Done:
    """An answer with nothing to say."""


REQUESTS: Mapping[Api, tuple[type, type]] = {
    Api.HELLO: (Hello, HelloAnswer),
    Api.PRODUCE: (Produce, Produced),
    Api.FETCH: (Fetch, Fetched),
    Api.METADATA: (Metadata, MetadataAnswer),
    Api.LIST_OFFSETS: (ListOffsets, OffsetsFound),
    Api.INIT_PRODUCER: (InitProducer, ProducerIdentity),
    Api.CREATE_TOPIC: (CreateTopic, TopicMetadata),
    Api.DELETE_TOPIC: (DeleteTopic, Done),
    Api.ADD_PARTITIONS: (AddPartitions, TopicMetadata),
    Api.DELETE_RECORDS: (DeleteRecords, Purged),
    Api.DESCRIBE_TOPIC: (DescribeTopic, TopicDescription),
    Api.ALTER_TOPIC: (AlterTopic, Done),
    Api.RESTORE_LOG: (RestoreLog, Done),
    Api.GROUP_HEARTBEAT: (groups.GroupHeartbeat, groups.GroupHeartbeatAnswer),
    Api.COMMIT_OFFSETS: (groups.CommitOffsets, groups.OffsetsCommitted),
    Api.FETCH_COMMITTED: (groups.FetchCommitted, groups.GroupOffsets),
    Api.FORGET_OFFSETS: (groups.ForgetOffsets, Done),
    Api.LIST_GROUPS: (groups.ListGroups, groups.GroupsListed),
    Api.DESCRIBE_GROUP: (groups.DescribeGroup, groups.GroupDescription),
    Api.DELETE_GROUP: (groups.DeleteGroup, Done),
    Api.REMOVE_MEMBER: (groups.RemoveMember, Done),
    Api.FIND_COORDINATOR: (routes.FindCoordinator, routes.CoordinatorFound),
    Api.PUSH: (groups.Push, groups.Pushed),
    Api.CREDIT: (groups.Credit, Done),
    Api.QUEUE_HEARTBEAT: (queue.QueueHeartbeat, queue.QueueHeartbeatAnswer),
    Api.TAKE_RECORDS: (queue.TakeRecords, queue.RecordsTaken),
    Api.SETTLE_RECORDS: (queue.SettleRecords, queue.RecordsSettled),
    Api.DESCRIBE_QUEUE: (queue.DescribeQueue, queue.QueueDescription),
    Api.MOVE_QUEUE: (queue.MoveQueue, Done),
    Api.LIST_DELAYED: (delay.ListDelayed, delay.DelayedMessages),
    Api.CANCEL_DELAYED: (delay.CancelDelayed, Done),
    Api.RESCHEDULE_DELAYED: (delay.RescheduleDelayed, delay.Rescheduled),
    Api.ADD_SCHEDULE: (schedule.AddSchedule, Done),
    Api.LIST_SCHEDULES: (schedule.ListSchedules, schedule.SchedulesListed),
    Api.PAUSE_SCHEDULE: (schedule.PauseSchedule, Done),
    Api.DELETE_SCHEDULE: (schedule.DeleteSchedule, Done),
    Api.SET_ASIDE: (letters.SetAside, letters.SetAsideAnswer),
    Api.MOVE_LETTERS: (letters.MoveLetters, letters.LettersMoved),
    Api.LIST_LETTERS: (letters.ListLetters, letters.LettersListed),
    Api.DESCRIBE_CLUSTER: (cluster.DescribeCluster, cluster.ClusterDescription),
    Api.REASSIGN: (cluster.Reassign, cluster.PartResults),
    Api.DESCRIBE_PARTITIONS: (cluster.DescribePartitions, cluster.PartitionPlaces),
    Api.ELECT_LEADERS: (cluster.ElectLeaders, cluster.LeadersElected),
    Api.DRAIN_NODE: (cluster.DrainNode, Done),
    Api.PLAN_MOVES: (cluster.PlanMoves, cluster.MovesPlanned),
    Api.REMOVE_NODE: (cluster.RemoveNode, Done),
}
API_OF: Mapping[type, Api] = {request: api for api, (request, _) in REQUESTS.items()}


# --- headers ----------------------------------------------------------------------------------------


def request_header(correlation: int, timeout_ms: int, body: object) -> list[object]:
    return [int(API_OF[type(body)]), PROTOCOL_VERSION, correlation, timeout_ms, to_plain(body)]


def read_request(header: list[Any]) -> tuple[int, int, object]:
    """(correlation, timeout_ms, body) of a request; raises `WireError`."""
    if len(header) < 5 or not all(type(item) is int for item in header[:4]):
        raise WireError("a request is [api, version, correlation, timeout_ms, body]")
    number, version, correlation, timeout_ms, body = header[:5]
    if version != PROTOCOL_VERSION:
        raise WireError(f"native protocol version {version} is not spoken here, {PROTOCOL_VERSION} is")
    try:
        request_class, _ = REQUESTS[Api(number)]
    except (ValueError, KeyError):
        raise WireError(f"there is no request {number} in the native protocol") from None
    return correlation, timeout_ms, from_plain(request_class, body)


def answer_header(correlation: int, body: object) -> list[object]:
    return [correlation, 0, None, to_plain(body)]


def error_header(correlation: int, code: int, message: str) -> list[object]:
    return [correlation, code, message, None]


def read_answer(header: list[Any]) -> tuple[int, int, str | None, Any]:
    """(correlation, code, message, plain body) of an answer; raises `WireError`."""
    if len(header) < 4 or type(header[0]) is not int or type(header[1]) is not int:
        raise WireError("an answer is [correlation, code, message, body]")
    correlation, code, message, body = header[:4]
    if message is not None and type(message) is not str:
        raise WireError("an answer's message must be text")
    return correlation, code, message, body
