"""What a controller does about a partition: who is in sync, who leads, when a move is done.

Pure functions from a record and what is known of the cluster to the next record. Always true:
- a leader is in the in-sync set, and the in-sync set is a part of the replicas;
- nobody outside the in-sync set is elected, unless the topic allows it or an operator says so, and then the record says
  that it is recovering;
- the last in-sync member stays in the set, dead or alive: it has what was acknowledged;
- every change raises the partition epoch, every new leadership the leader epoch; where nothing is to be done, nothing
  is changed.

A node counts as alive once its registration has been admitted: until the records have been changed for what a node may
have lost while it was away, it is as good as dead. After Kafka's controller (KIP-455, KIP-497, KIP-903).
"""

from collections.abc import Collection, Mapping, Sequence

import attrs

from dduomq.cluster.image import NO_LEADER, PartitionRecord
from dduomq.errors import InvalidReplicaAssignment
from dduomq.wire.cluster_errors import (
    ElectionNotNeeded,
    EligibleLeadersNotAvailable,
    NoReassignmentInProgress,
    PreferredLeaderNotAvailable,
)


@attrs.frozen
class TopicState:
    """What the controller needs to know of a topic."""

    name: str
    topic_id: str
    partitions: int
    replication: int
    is_unclean_allowed: bool = False


@attrs.frozen
class ClusterState:
    """`alive`: admitted nodes by number, and their epochs. `draining`: those of them that are to lead nothing."""

    alive: Mapping[int, int]
    draining: frozenset[int] = frozenset()

    @staticmethod
    def of(nodes: Mapping[int, int], admitted: Mapping[int, int], draining: Collection[int] = ()) -> "ClusterState":
        """Of all registered nodes only those whose registration of now has been admitted are alive."""
        alive = {node: epoch for node, epoch in nodes.items() if admitted.get(node) == epoch}
        return ClusterState(alive, frozenset(draining) & frozenset(alive))


def decide(record: PartitionRecord, state: ClusterState, *, is_unclean_allowed: bool = False) -> PartitionRecord:
    """The record as it should be; `record` itself where it is as it should be."""
    led = _lead(_shrink(record, state), state, is_unclean_allowed=is_unclean_allowed)
    return _stamped(record, _lead(_finish(led, state), state))


def prefer(record: PartitionRecord, state: ClusterState) -> PartitionRecord:
    """Let the preferred replica lead, if it can; else `record` itself."""
    preferred = record.replicas[0]
    can_lead = preferred in record.isr and preferred in state.alive and preferred not in state.draining
    if record.leader == preferred or not can_lead or preferred in record.removing:
        return record
    return _stamped(record, attrs.evolve(record, leader=preferred))


def mentions(record: PartitionRecord, node: int) -> bool:
    """Whether the node leads it, or is in sync."""
    return record.leader == node or node in record.isr


def is_orphan(record: PartitionRecord, topic: TopicState | None) -> bool:
    """Whether the topic it belongs to is gone, or has fewer partitions."""
    return topic is None or record.topic_id != topic.topic_id or record.partition >= topic.partitions


def missing(topic: TopicState, held: Collection[int]) -> Sequence[int]:
    """The partitions of a topic that has grown which no record speaks of. A topic without any is led as by one node."""
    return [at for at in range(topic.partitions) if at not in held] if held else []


# --- wishes of an operator --------------------------------------------------------------------------


def elect(record: PartitionRecord, state: ClusterState, *, unclean: bool) -> PartitionRecord:
    """An election that somebody asks for: of the preferred replica; `unclean`: of any that lives if none in sync does.

    Raises `ElectionNotNeeded`, `PreferredLeaderNotAvailable`, `EligibleLeadersNotAvailable`.
    """
    name = f"{record.topic}-{record.partition}"
    if unclean:
        if record.leader != NO_LEADER:
            raise ElectionNotNeeded(f"{name} is led by node {record.leader}")
        elected = decide(record, state, is_unclean_allowed=True)
        if elected.leader == NO_LEADER:
            raise EligibleLeadersNotAvailable(f"{name}: none of its replicas is alive: {_listed(record.replicas)}")
        return elected
    if record.leader == record.replicas[0]:
        raise ElectionNotNeeded(f"{name} is led by its preferred replica, node {record.leader}")
    elected = prefer(record, state)
    if elected is record:
        raise PreferredLeaderNotAvailable(
            f"{name}: its preferred replica, node {record.replicas[0]}, is not alive, not in sync, or draining; "
            f"in sync are: {_listed(record.isr)}"
        )
    return elected


def reassign(record: PartitionRecord, replicas: Sequence[int]) -> PartitionRecord:
    """Begin to move a partition to `replicas`, the first of which will be the preferred leader.

    Those that are new are added at once and copy it; those that are not wanted any more go when all new ones are in
    sync. Whatever move was under way is replaced. Raises `InvalidReplicaAssignment`.
    """
    if not replicas or len(set(replicas)) != len(replicas):
        raise InvalidReplicaAssignment(
            f"{record.topic}-{record.partition}: {list(replicas)} names a node twice, or none"
        )
    before = _before(record)
    adding = tuple(node for node in replicas if node not in before)
    # one that was being added and is not wanted any more has nothing that counts, unless it is in sync
    kept = [node for node in record.replicas if node in before or node in record.isr]
    removing = tuple(node for node in kept if node not in replicas)
    wanted = attrs.evolve(record, replicas=(*replicas, *removing), adding=adding, removing=removing)
    return _stamped(record, wanted)


def cancel(record: PartitionRecord, state: ClusterState) -> PartitionRecord:
    """Give a move up: the replicas are those from before. Raises `NoReassignmentInProgress`.

    Raises `InvalidReplicaAssignment` if none of those is in sync any more.
    """
    name = f"{record.topic}-{record.partition}"
    if not record.adding and not record.removing:
        raise NoReassignmentInProgress(f"{name} is not being moved")
    before = _before(record)
    isr = tuple(node for node in record.isr if node in before)
    if not isr:
        raise InvalidReplicaAssignment(f"{name}: only new replicas are in sync, so the move can't be given up")
    return _stamped(record, _lead(attrs.evolve(record, replicas=before, isr=isr, adding=(), removing=()), state))


# --- inside -----------------------------------------------------------------------------------------


def _before(record: PartitionRecord) -> tuple[int, ...]:
    """The replicas without those that a move adds."""
    return tuple(node for node in record.replicas if node not in record.adding)


def _shrink(record: PartitionRecord, state: ClusterState) -> PartitionRecord:
    """Who is not alive leaves the in-sync set, as long as somebody stays who is."""
    isr = tuple(node for node in record.isr if node in state.alive)
    return record if not isr or isr == record.isr else attrs.evolve(record, isr=isr)


def _finish(record: PartitionRecord, state: ClusterState) -> PartitionRecord:
    """A move is done when all that are added are in sync, and somebody who stays is alive and in sync."""
    if not (record.adding or record.removing) or not set(record.adding) <= set(record.isr):
        return record
    isr = tuple(node for node in record.isr if node not in record.removing)
    if not any(node in state.alive for node in isr):
        return record
    replicas = tuple(node for node in record.replicas if node not in record.removing)
    return attrs.evolve(record, replicas=replicas, isr=isr, adding=(), removing=())


def _lead(record: PartitionRecord, state: ClusterState, *, is_unclean_allowed: bool = False) -> PartitionRecord:
    """Who leads: who led, if that one still may; else the first replica that is alive and in sync."""
    can = [node for node in record.replicas if node in record.isr and node in state.alive]
    ready = [node for node in can if node not in state.draining]
    if record.leader in (ready or can):
        return record
    if can:
        staying = [node for node in ready or can if node not in record.removing]
        return attrs.evolve(record, leader=(staying or ready or can)[0])
    outside = [node for node in record.replicas if node in state.alive]
    if is_unclean_allowed and outside:
        return attrs.evolve(record, leader=outside[0], isr=(outside[0],), is_recovering=True)
    return attrs.evolve(record, leader=NO_LEADER)


def _stamped(before: PartitionRecord, after: PartitionRecord) -> PartitionRecord:
    """With the epochs that the change asks for."""
    if after == before:
        return before
    return attrs.evolve(
        after,
        partition_epoch=before.partition_epoch + 1,
        leader_epoch=before.leader_epoch + (after.leader != before.leader),
    )


def _listed(nodes: Sequence[int]) -> str:
    return ", ".join(map(str, nodes))
