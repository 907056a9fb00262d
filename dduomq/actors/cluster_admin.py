"""What an operator may do to the cluster, on any of its nodes.

Not a task of its own: each wish runs in its asker's task. Always true: a partition's record is changed only as it was
read (compare and set), so that neither the controller nor the partition's leader is overwritten; the record of a topic
is written when all of its partitions' are.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, cast

import attrs
import structlog
import trio

from dduomq.actors.following import FAILURES, Decoded
from dduomq.actors.registration import Registration
from dduomq.cluster import control
from dduomq.cluster.control import ClusterState
from dduomq.cluster.image import (
    CONTROLLER,
    CONTROLLER_EPOCH,
    DRAINING,
    NO_LEADER,
    PARTITIONS,
    PartitionRecord,
    TopicRecord,
    decode_partition,
    decode_topic,
    decode_value,
    encode_partition,
    encode_topic,
    encode_value,
    partition_key,
)
from dduomq.cluster.placement import Move, balance, check_assignment, factor_of, load_of, new_records, place
from dduomq.cluster.ports import (
    Check,
    Del,
    MetadataConflict,
    MetadataStore,
    MetadataUnavailable,
    MetadataUnknown,
    Operation,
    Put,
    Versioned,
)
from dduomq.errors import DduomqError, InvalidReplicationFactor, UnknownTopicOrPartition
from dduomq.limits import TOPIC_MAKING_MS_MAX, TXN_OPERATIONS_MAX
from dduomq.wire.cluster_errors import ElectionNotNeeded, NodeAlive, NodeNotFound

TRIES = 10
MIN_INSYNC = "min.insync.replicas"
Assignment = Sequence[Sequence[int]]


@attrs.frozen
class Elected:
    """What became of an election: who leads now, or why nothing was changed."""

    record: PartitionRecord
    error: DduomqError | None = None


@attrs.frozen
class Standing:
    """The cluster as it is. `controller` is `NO_LEADER` while there is none."""

    controller: int
    controller_epoch: int
    records: tuple[PartitionRecord, ...]


class Members(Protocol):
    """Who takes part in the cluster's own metadata engine, alive or not; nobody where the metadata stand elsewhere."""

    @property
    def members(self) -> Collection[int]:
        """Their numbers."""

    async def forget(self, node_id: int) -> None:
        """A node takes part no more; fine if it did not. Raises `InvalidChange` and what `MetadataStore.txn` raises."""


class ClusterAdmin:
    """`peers`: the nodes that were named at the start; they belong to the cluster, alive or not, as `members` do."""

    def __init__(
        self,
        store: MetadataStore,
        registration: Registration,
        *,
        peers: Collection[int],
        default_factor: int = 0,
        log: structlog.stdlib.BoundLogger,
        members: Members,
    ) -> None:
        self.registration = registration
        self._store = store
        self._peers = frozenset(peers)
        self._default_factor = default_factor
        self._log = log
        self._members = members
        self._decoded = Decoded(decode_partition)

    @property
    def known(self) -> list[int]:
        """The numbers of all nodes, alive or not."""
        return sorted(self._peers.union(self._members.members, self.registration.nodes.records))

    @property
    def alive(self) -> Collection[int]:
        """The numbers of the nodes that are registered."""
        return self.registration.nodes.records.keys()

    def state(self) -> ClusterState:
        nodes = self.registration.nodes
        return ClusterState.of(nodes.epochs, nodes.admitted, nodes.draining)

    async def records(self) -> list[PartitionRecord]:
        """Of all partitions."""
        return self._decoded.all(await self._store.scan(PARTITIONS))

    # --- topics -------------------------------------------------------------------------------------

    def factor(self, wanted: int, assignment: Assignment | None = None) -> int:
        """The number of replicas of a new topic. Raises `InvalidReplicationFactor`, `InvalidReplicaAssignment`."""
        alive = self.registration.nodes.records
        if assignment is not None:
            check_assignment(assignment, alive)
            return len(assignment[0])
        if wanted in {0, -1}:
            return factor_of(len(self.known), 0, self._default_factor)
        return factor_of(len(alive), wanted)

    @staticmethod
    def config(config: dict[str, str], defaults: Collection[str], factor: int) -> dict[str, str]:
        """A new topic's own settings: two of three replicas must have a record before its ack, and never more than all.

        `defaults`: the keys for which the node has a default of its own.
        """
        given = config.get(MIN_INSYNC)
        if given is None:
            return {**config, MIN_INSYNC: "2"} if factor > 2 and MIN_INSYNC not in defaults else config
        if given.isdecimal() and int(given) > factor:
            return {**config, MIN_INSYNC: str(factor)}
        return config

    async def create(self, topic: TopicRecord, assignment: Assignment | None = None) -> int:
        """Write a topic's record, after those of its partitions; its version. Raises `MetadataConflict` if it is there.

        Where it is not known whether the topic was made, its partitions are left to the controller to sweep up.
        """
        made = await self._new_records(topic, topic.partitions, assignment)
        try:
            with trio.move_on_after(TOPIC_MAKING_MS_MAX / 1000) as scope:
                await self._write([[Put(record.key, encode_partition(record))] for record in made])
            if scope.cancelled_caught:
                raise MetadataUnavailable("the metadata engine takes too long to make the topic; try again")
            return await self._store.txn([Check(topic.key, 0), Put(topic.key, encode_topic(topic))])
        except MetadataUnknown:
            held = await self._store.get(topic.key)
            if held is not None and decode_topic(held.value).topic_id == topic.topic_id:
                return held.version
            raise
        except (MetadataConflict, MetadataUnavailable):
            await self.forget([record.key for record in made])
            raise

    async def grow(
        self, topic: TopicRecord, version: int, total: int, assignment: Assignment | None = None
    ) -> list[Operation]:
        """Write the records of partitions that a topic is to get; what remains to be done is given back.

        Raises `MetadataConflict` if the topic is not at `version` any more.
        """
        guard = Check(topic.key, version)
        held = {each.key: each.version for each in await self._store.scan(f"{PARTITIONS}{topic.topic_id}/")}
        if held:
            made = await self._new_records(topic, total - topic.partitions, assignment, topic.partitions)
            await self._write(
                [[Check(r.key, held.get(r.key, 0)), Put(r.key, encode_partition(r))] for r in made], guard
            )
        grown = attrs.evolve(topic, partitions=total)
        return [guard, Put(topic.key, encode_topic(grown))]

    async def _new_records(
        self, topic: TopicRecord, count: int, assignment: Assignment | None, first: int = 0
    ) -> list[PartitionRecord]:
        nodes = self.registration.nodes
        if not nodes.records:
            raise InvalidReplicationFactor("no node of the cluster is registered at the moment; try again")
        if assignment is None:
            absent = [node for node in self.known if node not in nodes.records]
            load = load_of(await self.records())
            assignment = place(list(nodes.records.values()), count, topic.replication, load, absent)
        else:
            check_assignment(assignment, nodes.records)
        alive = self.state().alive or nodes.records
        return new_records(topic, assignment, alive, first)

    async def _write(self, groups: Iterable[Sequence[Operation]], guard: Check | None = None) -> None:
        """All operations, as many as go into a transaction at once; those of a group together."""
        batch: list[Operation] = []
        for group in groups:
            if len(batch) + len(group) + 1 > TXN_OPERATIONS_MAX:
                await self._store.txn(batch)
                batch = []
            if not batch and guard is not None:
                batch.append(guard)
            batch += group
        if batch:
            await self._store.txn(batch)

    async def forget(self, keys: Iterable[str]) -> None:
        """Delete keys that nobody needs any more. What is left of them the controller sweeps up."""
        with trio.move_on_after(TOPIC_MAKING_MS_MAX / 1000, shield=True):
            try:
                await self._write([[Del(key)] for key in keys])
            except FAILURES as error:
                self._log.info("metadata_left_behind", reason=error.message)

    async def forget_partitions(self, topic: TopicRecord) -> None:
        """Delete the records of a topic's partitions."""
        await self.forget(partition_key(topic.topic_id, at) for at in range(topic.partitions))

    # --- partitions ---------------------------------------------------------------------------------

    async def reassign(self, topic: TopicRecord, partition: int, replicas: Sequence[int] | None) -> PartitionRecord:
        """Begin to move a partition; None: give its move up.

        Raises `InvalidReplicaAssignment`, `NoReassignmentInProgress`, `UnknownTopicOrPartition`.
        """

        def change(record: PartitionRecord) -> PartitionRecord:
            if replicas is None:
                return control.cancel(record, self.state())
            known = {*self.registration.nodes.records, *record.replicas}
            check_assignment([replicas], known)
            return control.reassign(record, replicas)

        record = await self._change(topic, partition, change)
        self._log.info(
            "partition_reassigned", topic=topic.name, partition=partition, replicas=record.replicas,
            adding=record.adding, removing=record.removing,
        )  # fmt: skip
        return record

    async def elect(self, topic: TopicRecord, partition: int, *, unclean: bool) -> PartitionRecord:
        """Elect a leader at once. Raises what `cluster.control.elect` raises, and `UnknownTopicOrPartition`."""
        record = await self._change(
            topic, partition, lambda held: control.elect(held, self.state(), unclean=unclean), is_election=True
        )
        self._log.info(
            "leader_elected", topic=topic.name, partition=partition, leader=record.leader, unclean=record.is_recovering
        )
        return record

    async def elect_all(self, topics: Iterable[TopicRecord], *, unclean: bool) -> list[Elected]:
        """Elect leaders wherever that is needed."""
        by_id = {topic.topic_id: topic for topic in topics}
        elected = []
        for record in await self.records():
            if record.topic_id not in by_id or not _needs_election(record, unclean=unclean):
                continue
            try:
                changed = await self.elect(by_id[record.topic_id], record.partition, unclean=unclean)
                elected.append(Elected(changed))
            except ElectionNotNeeded:
                continue
            except DduomqError as error:
                elected.append(Elected(record, error))
        return elected

    async def _change(
        self,
        topic: TopicRecord,
        partition: int,
        change: Callable[[PartitionRecord], PartitionRecord],
        *,
        is_election: bool = False,
    ) -> PartitionRecord:
        key = partition_key(topic.topic_id, partition)
        for attempt in range(TRIES):
            held = await self._store.get(key)
            if held is None:
                raise UnknownTopicOrPartition(f"{topic.name}-{partition} is not known to the cluster")
            before = self._decoded.one(held)
            after = change(before)
            if after is before:
                return before
            try:
                await self._store.txn(self._guarded(held, after, is_election=is_election))
                return after
            except MetadataConflict:
                if attempt == TRIES - 1:
                    raise
        raise MetadataConflict

    def _guarded(self, held: Versioned, after: PartitionRecord, *, is_election: bool) -> list[Operation]:
        """Whoever is elected must be registered as this node believes."""
        guards = []
        record = self.registration.nodes.records.get(after.leader)
        if is_election and record is not None:
            guards = [Check(record.key, self.registration.nodes.epoch(after.leader))]
        return [Check(held.key, held.version), *guards, Put(held.key, encode_partition(after))]

    async def plan_moves(self, empty: Collection[int] = ()) -> list[Move]:
        """What would level the cluster, and empty some nodes. Raises `InvalidReplicationFactor`, `NodeNotFound`."""
        records = await self.records()
        self._check_known(empty, records)
        return balance(records, list(self.registration.nodes.records.values()), empty)

    # --- nodes --------------------------------------------------------------------------------------

    async def drain(self, node_id: int, *, is_draining: bool) -> None:
        """Let a node lead nothing, or let it lead again. Raises `NodeNotFound`."""
        self._check_known([node_id], await self.records())
        key = f"{DRAINING}{node_id}"
        await self._store.txn([Put(key, encode_value(node_id)) if is_draining else Del(key)])
        self._log.info("node_drained" if is_draining else "node_undrained", node=node_id)

    async def remove(self, node_id: int) -> None:
        """A node is gone for good, or its directory is. Raises `NodeAlive`, `NodeNotFound`."""
        self._check_known([node_id], await self.records())
        if node_id in self.registration.nodes.records:
            raise NodeAlive(f"node {node_id} is alive: stop it first")
        await self._store.txn([Del(f"{DRAINING}{node_id}")])
        await self._members.forget(node_id)  # the last step: until then it is known, and may be removed again
        self._log.info("node_removed", node=node_id)

    def _check_known(self, nodes: Iterable[int], records: Iterable[PartitionRecord]) -> None:
        known = {*self.known, *(node for record in records for node in record.replicas)}
        for node in nodes:
            if node not in known:
                raise NodeNotFound(f"the cluster has no node {node}; it has {', '.join(map(str, sorted(known)))}")

    async def standing(self) -> Standing:
        """Who is the controller, and all partitions."""
        controller, epoch = await self._store.get(CONTROLLER), await self._store.get(CONTROLLER_EPOCH)
        return Standing(
            NO_LEADER if controller is None else cast(int, decode_value(controller.value)),
            0 if epoch is None else cast(int, decode_value(epoch.value)),
            tuple(await self.records()),
        )


def _needs_election(record: PartitionRecord, *, unclean: bool) -> bool:
    return record.leader == NO_LEADER if unclean else record.leader not in {record.replicas[0], NO_LEADER}
