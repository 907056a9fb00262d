"""Where every partition of the cluster is, as this node knows it.

Always true: `Routes.table` is never changed, only replaced by a new one, so a reader needs no lock. A mailbox of
`TopicRoute.partitions` leads to the partition's leader, wherever that is; clients are to go to the leader on their own:
for them `Routes.partition` has only what is led here.
"""

from collections.abc import Mapping

import attrs

from dduomq.actors.actor import Mailbox
from dduomq.cluster.image import NO_LEADER, PartitionRecord, TopicRecord
from dduomq.errors import LeaderNotAvailable, NotLeader, UnknownTopicOrPartition
from dduomq.log.settings import TopicSettings


@attrs.frozen
class TopicRoute:
    """A topic, and by number the ways to its partitions and who keeps them. `kept`: the replicas of this node."""

    record: TopicRecord
    settings: TopicSettings
    partitions: tuple[Mailbox, ...]
    records: tuple[PartitionRecord, ...]
    kept: Mapping[int, Mailbox] = attrs.field(factory=dict)


class Routes:
    """`table` is swapped whole by the router. When it `is_closed`, nobody is in it."""

    __slots__ = ("_names", "_names_of", "is_closed", "node_id", "table")

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.table: Mapping[str, TopicRoute] = {}
        self.is_closed = False
        self._names: Mapping[str, str] = {}
        self._names_of: Mapping[str, TopicRoute] = self.table

    def name_of(self, topic_id: str) -> str | None:
        """The name of the topic with that id; None if there is none."""
        if self._names_of is not self.table:
            self._names = {route.record.topic_id: name for name, route in self.table.items()}
            self._names_of = self.table
        return self._names.get(topic_id)

    def check_id(self, topic: str, topic_id: str | None) -> None:
        """Raises `UnknownTopicOrPartition` if another topic has the name now. None: whichever has it."""
        route = self.table.get(topic)
        if topic_id is not None and (route is None or route.record.topic_id != topic_id):
            raise UnknownTopicOrPartition(f"the topic {topic!r} that is meant has been deleted")

    def check(self, topic: str, partition: int) -> TopicRoute:
        """The topic's route. Raises `UnknownTopicOrPartition` that says which of the two is unknown."""
        route = self.table.get(topic)
        if route is None:
            raise UnknownTopicOrPartition(f"there is no topic {topic!r}; make it with 'dduomq topic create {topic}'")
        if not 0 <= partition < len(route.partitions):
            raise UnknownTopicOrPartition(
                f"topic {topic!r} has partitions 0 to {len(route.partitions) - 1}, not {partition}"
            )
        return route

    def anywhere(self, topic: str, partition: int) -> Mailbox:
        """The way to the partition's leader, wherever that is. Raises `UnknownTopicOrPartition`."""
        return self.check(topic, partition).partitions[partition]

    def replica(self, topic: str, partition: int) -> Mailbox:
        """The replica that is kept here, whoever leads. Raises `UnknownTopicOrPartition`."""
        found = self.check(topic, partition).kept.get(partition)
        if found is None:
            raise UnknownTopicOrPartition(f"node {self.node_id} keeps no replica of {topic}-{partition}")
        return found

    def partition(self, topic: str, partition: int) -> Mailbox:
        """What is led here. Raises `UnknownTopicOrPartition`; `NotLeader`, `LeaderNotAvailable` for what is not."""
        route = self.check(topic, partition)
        leader = route.records[partition].leader
        if leader != self.node_id:
            refuse_elsewhere(topic, partition, leader)
        return route.partitions[partition]


def refuse_elsewhere(topic: str, partition: int, leader: int) -> None:
    """Raises what tells a client where to go."""
    if leader == NO_LEADER:
        raise LeaderNotAvailable(f"{topic}-{partition} has no leader at the moment: no in-sync replica is alive")
    raise NotLeader(f"node {leader} leads {topic}-{partition}; ask for the metadata again")
