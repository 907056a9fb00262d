"""Which node a request belongs to, and what is known of who leads what.

A pure machine. Always true: what is known of a partition's leader never goes back to an older epoch, whoever says so,
unless the topic, or the cluster, is another one; a request that has reached the wrong node comes to the right one once
somebody knows it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

from dduomq.errors import (
    CoordinatorLoading,
    CoordinatorNotAvailable,
    DduomqError,
    FencedLeaderEpoch,
    LeaderNotAvailable,
    NetworkError,
    NodeStopping,
    NotCoordinator,
    NotLeader,
    OutcomeUnknown,
    RequestTimedOut,
    StorageError,
    UnknownLeaderEpoch,
    UnknownTopicOrPartition,
    from_code,
)
from dduomq.limits import CLIENT_NODES_MAX, CLIENT_TOPICS_MAX
from dduomq.wire import (
    native,
    native_cluster,
    native_delay,
    native_groups,
    native_letters,
    native_queue,
    native_schedule,
)
from dduomq.wire.cluster_errors import MetadataUnavailable, PeerNotReached, PeerUnavailable
from dduomq.wire.native_routes import GROUP, FindCoordinator

HostPort: TypeAlias = tuple[str, int]
# Who is asked does not lead the partition, or no more.
MISROUTED = (NotLeader, FencedLeaderEpoch, UnknownLeaderEpoch, NotCoordinator)
# After these it may be time to ask who leads it.
LEADER_IN_DOUBT = (
    *MISROUTED, LeaderNotAvailable, NetworkError, OutcomeUnknown, NodeStopping, StorageError, UnknownTopicOrPartition
)  # fmt: skip
COORDINATOR_IN_DOUBT = (
    NotCoordinator, CoordinatorNotAvailable, CoordinatorLoading, NetworkError, OutcomeUnknown, NodeStopping
)  # fmt: skip
# A node that can do nothing at the moment has not begun.
NOT_CARRIED_OUT = (MetadataUnavailable, PeerNotReached)
MAYBE_CARRIED_OUT = (OutcomeUnknown, RequestTimedOut, NodeStopping, PeerUnavailable)
PASSING = (
    *MISROUTED, *NOT_CARRIED_OUT, LeaderNotAvailable, CoordinatorNotAvailable, CoordinatorLoading, NetworkError
)  # fmt: skip


@attrs.frozen
class Anywhere:
    """Any node answers."""


@attrs.frozen
class LedBy:
    """The partition's leader does."""

    topic: str
    partition: int


@attrs.frozen
class KeptBy:
    """The coordinator of what `key` names does."""

    kind: str
    key: str


Spot: TypeAlias = Anywhere | LedBy | KeptBy
ANYWHERE: Final = Anywhere()


def _first_of(field: str) -> Callable[[Any], Spot]:
    def find(body: Any) -> Spot:
        parts = getattr(body, field)
        return LedBy(parts[0].topic, parts[0].partition) if parts else ANYWHERE

    return find


def _led(body: Any) -> Spot:
    return LedBy(body.topic, body.partition)


def _kept(body: Any) -> Spot:
    return KeptBy(GROUP, body.group)


_SPOTS: Mapping[type, Callable[[Any], Spot]] = {
    native.Fetch: _first_of("parts"),
    native.ListOffsets: _first_of("queries"),
    native.DeleteRecords: _first_of("parts"),
    native.RestoreLog: _led,
    native_groups.Push: _led,
    **dict.fromkeys(
        (
            native_groups.GroupHeartbeat, native_groups.CommitOffsets, native_groups.FetchCommitted,
            native_groups.ForgetOffsets, native_groups.DescribeGroup, native_groups.DeleteGroup,
            native_groups.RemoveMember, native_letters.SetAside, native_queue.QueueHeartbeat, native_queue.TakeRecords,
            native_queue.SettleRecords, native_queue.DescribeQueue, native_queue.MoveQueue,
        ),
        _kept,
    ),
}  # fmt: skip
# Asked twice they do nothing more than asked once.
IDEMPOTENT: Final = frozenset({
    native.Fetch, native.ListOffsets, native.Metadata, native.InitProducer, native.DescribeTopic,
    native.AlterTopic, native.DeleteRecords,
    native_groups.FetchCommitted, native_groups.ListGroups, native_groups.DescribeGroup, native_queue.DescribeQueue,
    native_queue.MoveQueue, native_delay.ListDelayed, native_schedule.ListSchedules, native_schedule.PauseSchedule,
    native_letters.ListLetters, FindCoordinator,
    native_cluster.DescribeCluster, native_cluster.DescribePartitions, native_cluster.PlanMoves,
    native_cluster.DrainNode,
})  # fmt: skip
# Those whose parts may belong to several nodes; what their answers have to say stands in one list in the same order.
_DIVISIBLE: Mapping[type, str] = {native.ListOffsets: "queries", native.DeleteRecords: "parts"}
_BY_PARTS: Final = frozenset({native.Fetch, native.ListOffsets, native.DeleteRecords})


def spot_of(body: object) -> Spot:
    """Where a request is answered."""
    find = _SPOTS.get(type(body))
    return ANYWHERE if find is None else find(body)


def places_of(body: Any) -> list[tuple[str, int]]:
    """(topic, partition) of each part of a request that may have to be divided; else []."""
    field = _DIVISIBLE.get(type(body))
    return [] if field is None else [(part.topic, part.partition) for part in getattr(body, field)]


def take_parts(body: Any, positions: Sequence[int]) -> Any:
    """The same request about some of its parts."""
    field = _DIVISIBLE[type(body)]
    parts = getattr(body, field)
    return attrs.evolve(body, **{field: tuple(parts[at] for at in positions)})


def join_answers(count: int, answers: Iterable[tuple[Sequence[int], Any]]) -> list[Any]:
    """One plain answer of those to the parts; each comes with the positions that its parts had."""
    whole: list[Any] = [None] * count
    for positions, plain in answers:
        for at, found in zip(positions, plain[0], strict=True):
            whole[at] = found
    return [whole]


def trouble_in(body: object, plain: Any) -> DduomqError | None:
    """The first part's error that says that this was the wrong node, or may have been."""
    if type(body) not in _BY_PARTS or not isinstance(plain, list) or not plain or not isinstance(plain[0], list):
        return None
    for part in plain[0]:
        if isinstance(part, list) and part and type(part[0]) is int and part[0]:
            error = from_code(part[0], part[1] or "" if len(part) > 1 else "")
            if isinstance(error, LEADER_IN_DOUBT):
                return error
    return None


# --- who leads what -----------------------------------------------------------------------------------


@attrs.frozen
class Leader:
    """Of one partition."""

    node_id: int
    epoch: int


@attrs.frozen
class _Topic:
    topic_id: str
    leaders: Mapping[int, Leader]


class Routes:
    """What a client knows of the nodes and of who leads what.

    `nodes`: addresses by node id. `version` is another one whenever a leader is. `doubtful`: topics about which
    somebody has met an error since they were last looked up.
    """

    def __init__(self) -> None:
        self._cluster_id: str | None = None
        self._topics: dict[str, _Topic] = {}
        self.nodes: dict[int, HostPort] = {}
        self.doubtful: dict[str, None] = {}
        self.version = 0

    @property
    def is_cluster(self) -> bool:
        """Whether there is more than one node."""
        return len(self.nodes) > 1

    def topics(self) -> tuple[str, ...]:
        """Those of which anything is known."""
        return tuple(self._topics)

    def leader(self, topic: str, partition: int) -> Leader | None:
        """None if nobody leads it just now, or nothing is known."""
        known = self._topics.get(topic)
        found = None if known is None else known.leaders.get(partition)
        return None if found is None or found.node_id < 0 else found

    def knows(self, topic: str, partition: int) -> bool:
        """Whether there is such a partition, as far as is known."""
        known = self._topics.get(topic)
        return known is not None and partition in known.leaders

    def doubt(self, topic: str) -> None:
        """It is to be looked up again."""
        self.doubtful[topic] = None

    def learn_node(self, node_id: int, host: str, port: int) -> None:
        """Where a node says that it is reached; a node without a listener can't be."""
        if port > 0:
            self.nodes[node_id] = (host, port)

    def learn(self, answer: native.MetadataAnswer) -> None:
        """What a node knows; it may be behind the others."""
        if answer.cluster_id != self._cluster_id:
            if self._cluster_id is not None:
                self._topics.clear()
                self.nodes.clear()
                self.version += 1
            self._cluster_id = answer.cluster_id
        for node in answer.nodes:
            self.learn_node(node.node_id, node.host, node.port)
        if len(self.nodes) > CLIENT_NODES_MAX:
            listed = {node.node_id for node in answer.nodes}
            for node_id in [one for one in self.nodes if one not in listed]:
                del self.nodes[node_id]
        for topic in answer.topics:
            if not topic.code:
                self._learn_topic(topic)

    def _learn_topic(self, topic: native.TopicMetadata) -> None:
        before = self._topics.get(topic.name)
        leaders = {part.partition: Leader(part.leader, part.leader_epoch) for part in topic.partitions}
        if before is not None and before.topic_id == topic.topic_id:
            for partition, held in before.leaders.items():
                said = leaders.get(partition)
                if said is None or said.epoch < held.epoch:
                    leaders[partition] = held
        now = _Topic(topic.topic_id, leaders)
        if now == before:
            return
        self._topics.pop(topic.name, None)
        self._topics[topic.name] = now
        self.version += 1
        if len(self._topics) > CLIENT_TOPICS_MAX:
            del self._topics[next(iter(self._topics))]
