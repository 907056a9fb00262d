"""What an operator may do, whichever door the wish comes through.

Not a task of its own: each wish runs in its asker's task, and the metadata store's version checks keep two of
them from overwriting each other. Always true: a wish that was answered is in force on this node.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs
import structlog

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.cluster_admin import ClusterAdmin
from dduomq.actors.partition_messages import Describe, PartitionState, Purge, Restore
from dduomq.actors.router import AwaitTopic
from dduomq.actors.routes import Routes, TopicRoute
from dduomq.cluster.image import (
    PRODUCER_IDS,
    TOPICS,
    PartitionRecord,
    TopicRecord,
    decode_topic,
    decode_value,
    encode_topic,
    encode_value,
)
from dduomq.cluster.ports import Check, Del, MetadataConflict, MetadataStore, Operation, Put, Versioned
from dduomq.errors import (
    DduomqError,
    InvalidConfig,
    InvalidPartitions,
    InvalidReplicaAssignment,
    InvalidReplicationFactor,
    InvalidTopic,
    Overloaded,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from dduomq.ids import INTERNAL_PREFIX, check_topic_name
from dduomq.limits import (
    PARTITIONS_PER_NODE_MAX,
    PARTITIONS_PER_TOPIC_MAX,
    PRODUCER_ID_BLOCK,
    TOPICS_AUTO_CREATED_PER_MINUTE,
)
from dduomq.log.settings import KEYS, TopicSettings
from dduomq.ports import Clock, Rng

PRODUCER_EPOCH_MAX = 32_766
TRIES = 5
ChangeTopic: TypeAlias = Callable[[TopicRecord], TopicRecord]


@attrs.frozen
class TopicDefaults:
    """What a topic gets where its maker says nothing."""

    partitions: int
    auto_create: bool
    config: Mapping[str, str]


@attrs.frozen
class ConfigValue:
    key: str
    value: str
    is_default: bool
    doc: str


class Admin:
    """Topics, their settings and records; producer identities."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        routes: Routes,
        router: Mailbox,
        clock: Clock,
        rng: Rng,
        defaults: TopicDefaults,
        log: structlog.stdlib.BoundLogger,
        cluster: ClusterAdmin | None = None,
        open_replica: Callable[[PartitionRecord, int], Mailbox] | None = None,
    ) -> None:
        """`cluster`: None of a node alone, which keeps every partition and writes nothing down about that.

        `open_replica`: the way to the replica of a partition on another node.
        """
        self._open_replica = open_replica
        self.cluster = cluster
        self._store = store
        self._routes = routes
        self._router = router
        self._clock = clock
        self._rng = rng
        self._defaults = defaults
        self._log = log
        self._producer_ids = range(0)
        self._auto_created: list[float] = []

    # --- topics -------------------------------------------------------------------------------------

    def settings_of(self, record: TopicRecord) -> TopicSettings:
        """The settings in force: the topic's own over the node's defaults."""
        settings = TopicSettings.from_config({**self._defaults.config, **record.config})
        return settings.for_partitions(record.partitions)

    def route(self, name: str) -> TopicRoute:
        route = self._routes.table.get(name)
        if route is None:
            raise UnknownTopicOrPartition(f"there is no topic {name!r}")
        return route

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 0,
        replication: int = 0,
        config: Mapping[str, str] | None = None,
        validate_only: bool = False,
        internal: bool = False,
        kind: str = "",
        group: str = "",
        assignment: Sequence[Sequence[int]] | None = None,
    ) -> TopicRecord:
        """Make a topic; 0 means the node's default. `assignment`: the replicas of each partition, chosen by hand.

        Raises `InvalidTopic`, `TopicAlreadyExists`, `InvalidPartitions`, `InvalidReplicationFactor`,
        `InvalidReplicaAssignment`, `InvalidConfig`.
        """
        check_topic_name(name, internal=internal)
        count = len(assignment) if assignment else partitions or self._defaults.partitions
        self._check_partitions(count, added=count)
        factor = self._factor(replication, assignment or None)
        own = dict(config or {})
        if self.cluster is not None:
            own = self.cluster.config(own, self._defaults.config.keys(), factor)
        record = TopicRecord(name, self._new_id(), count, factor, own, self._clock.wall_ms(), kind, group)
        self.settings_of(record)
        if name in self._routes.table:
            raise TopicAlreadyExists(f"topic {name!r} exists already")
        if validate_only:
            return record
        try:
            if self.cluster is None:
                version = await self._store.txn([Check(record.key, 0), Put(record.key, encode_topic(record))])
            else:
                version = await self.cluster.create(record, assignment or None)
        except MetadataConflict:
            raise TopicAlreadyExists(f"topic {name!r} exists already") from None
        await self._await(name, version)
        self._log.info("topic_created", topic=name, partitions=count, config=dict(record.config))
        return record

    async def create_on_use(self, name: str) -> TopicRecord:
        """Make a topic because somebody sends to it or subscribes. Raises when that is turned off."""
        if not self._defaults.auto_create or name.startswith(INTERNAL_PREFIX):
            raise UnknownTopicOrPartition(f"there is no topic {name!r}, and topics are not made on first use here")
        check_topic_name(name)
        now = self._clock.monotonic()
        self._auto_created = [at for at in self._auto_created if now - at < 60]
        if len(self._auto_created) >= TOPICS_AUTO_CREATED_PER_MINUTE:
            raise Overloaded(f"{TOPICS_AUTO_CREATED_PER_MINUTE} topics a minute are made on first use, not more")
        self._auto_created.append(now)
        try:
            return await self.create_topic(name)
        except TopicAlreadyExists:
            return await self.wait_for(name)

    async def wait_for(self, name: str) -> TopicRecord:
        """A topic that somebody else has just made, once it is in force here."""
        held = await self._held(name)
        await self._await(name, held.version)
        return decode_topic(held.value)

    async def delete_topic(self, name: str) -> None:
        """Raises `UnknownTopicOrPartition`. Its records are gone for good."""
        _refuse_internal(name)
        held = await self._held(name)
        topic = decode_topic(held.value)
        places = await self._store.scan(f"/line/{topic.topic_id}/")
        operations: list[Operation] = [Check(held.key, held.version), Del(held.key)]
        forgotten = [place.key for place in places]
        if self.cluster is None:
            operations += [Del(key) for key in forgotten]
        version = await self._store.txn(operations)
        if self.cluster is not None:
            await self.cluster.forget_partitions(topic)
            await self.cluster.forget(forgotten)
        await self._await(name, version)
        self._log.info("topic_deleted", topic=name)

    async def add_partitions(
        self,
        name: str,
        total: int,
        *,
        validate_only: bool = False,
        assignment: Sequence[Sequence[int]] | None = None,
    ) -> TopicRecord:
        """Raise the number of partitions to `total`; it never shrinks. `assignment`: the replicas of the new ones.

        Raises `InvalidPartitions`, `InvalidReplicaAssignment`.
        """
        _refuse_internal(name)
        record = self.route(name).record
        if total <= record.partitions:
            raise InvalidPartitions(f"topic {name!r} has {record.partitions} partitions; only more can be asked for")
        self._check_partitions(total, added=total - record.partitions)
        if assignment and len(assignment) != total - record.partitions:
            raise InvalidReplicaAssignment(f"replicas of {total - record.partitions} new partitions are to be given")
        if validate_only:
            return record
        if self.cluster is None:
            return await self._change(name, lambda held: attrs.evolve(held, partitions=total))
        return await self._grow(self.cluster, name, total, assignment or None)

    async def _grow(
        self, cluster: ClusterAdmin, name: str, total: int, assignment: Sequence[Sequence[int]] | None
    ) -> TopicRecord:
        for attempt in range(TRIES):
            held = await self._held(name)
            record = decode_topic(held.value)
            if total <= record.partitions:
                raise InvalidPartitions(f"topic {name!r} has {record.partitions} partitions already")
            try:
                version = await self._store.txn(await cluster.grow(record, held.version, total, assignment))
            except MetadataConflict:
                if attempt == TRIES - 1:
                    raise
                continue
            await self._await(name, version)
            return attrs.evolve(record, partitions=total)
        raise MetadataConflict

    async def alter_topic(
        self, name: str, changes: Mapping[str, str | None], *, validate_only: bool = False
    ) -> TopicRecord:
        """Set configuration keys, or with None put them back to their default. Raises `InvalidConfig`."""
        _refuse_internal(name)
        unknown = [key for key in changes if key not in KEYS]
        if unknown:
            TopicSettings.from_config(dict.fromkeys(unknown, ""))
        if "storage" in changes:
            raise InvalidConfig("storage is chosen when a topic is made and can't be changed")

        def change(held: TopicRecord) -> TopicRecord:
            config = {key: value for key, value in {**held.config, **changes}.items() if value is not None}
            changed = attrs.evolve(held, config=config)
            self.settings_of(changed)
            return changed

        if validate_only:
            return change(self.route(name).record)
        record = await self._change(name, change)
        self._log.info("topic_changed", topic=name, config=dict(changes))
        return record

    def config_of(self, name: str) -> list[ConfigValue]:
        """Every key with its value in force."""
        return self.config_of_record(self.route(name).record)

    def config_of_record(self, record: TopicRecord) -> list[ConfigValue]:
        """The same, of a topic that need not exist yet."""
        values = {**self._defaults.config, **record.config}
        return [
            ConfigValue(key, values.get(key, entry.default), key not in record.config, entry.doc)
            for key, entry in KEYS.items()
        ]

    async def describe(self, name: str) -> list[PartitionState]:
        """The state of each partition, by number; of one that can't be asked, why."""
        route = self.route(name)
        return [
            await _state(mailbox, record.leader_epoch)
            for mailbox, record in zip(route.partitions, route.records, strict=True)
        ]

    async def describe_kept(self, name: str) -> dict[int, PartitionState]:
        """The state of each replica that this node keeps, whoever leads."""
        return {at: await _state(mailbox, -1) for at, mailbox in sorted(self.route(name).kept.items())}

    # --- records ------------------------------------------------------------------------------------

    async def delete_records(self, topic: str, partition: int, offset: int) -> int:
        """Delete what is before `offset` (-1: everything consumers can see); the log's new start."""
        _refuse_internal(topic)
        mailbox = self._routes.anywhere(topic, partition)
        start: int = await ask(mailbox, lambda reply: Purge(offset=offset, reply=reply))
        self._log.info("records_deleted", topic=topic, partition=partition, log_start_offset=start)
        return start

    async def restore_log(self, topic: str, partition: int) -> None:
        """Bring a log back that a disk failure took offline, on every node that keeps a replica and is alive."""
        record = self._routes.check(topic, partition).records[partition]
        for node in record.replicas:
            if node == self._routes.node_id:
                await ask(self._routes.replica(topic, partition), lambda reply: Restore(reply=reply))
            elif self._open_replica is not None and self.cluster is not None and node in self.cluster.alive:
                mailbox = self._open_replica(record, node)
                await ask(mailbox, lambda reply: Restore(reply=reply))
        self._log.info("log_restored", topic=topic, partition=partition)

    # --- producers ----------------------------------------------------------------------------------

    async def init_producer(self, producer_id: int, producer_epoch: int) -> tuple[int, int]:
        """A new producer's (id, 0), or a known one's (id, next epoch)."""
        if producer_id >= 0 and 0 <= producer_epoch < PRODUCER_EPOCH_MAX:
            return producer_id, producer_epoch + 1
        for _ in range(TRIES):
            if self._producer_ids:
                break
            await self._take_producer_ids()
        if not self._producer_ids:
            raise MetadataConflict("other nodes give out producer ids all the time; try again")
        first, self._producer_ids = self._producer_ids[0], self._producer_ids[1:]
        return first, 0

    async def _take_producer_ids(self) -> None:
        held = await self._store.get(PRODUCER_IDS)
        first, version = (0, 0) if held is None else (decode_value(held.value), held.version)
        assert isinstance(first, int)
        end = first + PRODUCER_ID_BLOCK
        try:
            await self._store.txn([Check(PRODUCER_IDS, version), Put(PRODUCER_IDS, encode_value(end))])
        except MetadataConflict:
            return
        self._producer_ids = range(first, end)

    # --- places of the line protocol's groups --------------------------------------------------------

    async def line_places(self, group: str, topic: str) -> dict[int, int]:
        """Where a group of the line protocol goes on, by partition."""
        held = await self._store.get(_line_key(group, self.route(topic).record))
        places = [] if held is None else decode_value(held.value)
        assert isinstance(places, list)
        return dict(places)

    async def keep_line_places(self, group: str, topic: str, places: Mapping[int, int]) -> None:
        key = _line_key(group, self.route(topic).record)
        await self._store.txn([Put(key, encode_value([[p, offset] for p, offset in places.items()]))])

    # --- inside -------------------------------------------------------------------------------------

    def _factor(self, wanted: int, assignment: Sequence[Sequence[int]] | None) -> int:
        if self.cluster is not None:
            return self.cluster.factor(wanted, assignment)
        if wanted not in {0, -1, 1} or (assignment and any(len(replicas) != 1 for replicas in assignment)):
            raise InvalidReplicationFactor(f"{wanted} replicas were asked for, this cluster has 1 node")
        return 1

    def _check_partitions(self, count: int, *, added: int) -> None:
        if not 1 <= count <= PARTITIONS_PER_TOPIC_MAX:
            raise InvalidPartitions(f"a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {count}")
        here = sum(len(route.partitions) for route in self._routes.table.values())
        if here + added > PARTITIONS_PER_NODE_MAX:
            raise InvalidPartitions(f"this node has {here} partitions of at most {PARTITIONS_PER_NODE_MAX}")

    def _new_id(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"

    async def _held(self, name: str) -> Versioned:
        held = await self._store.get(TOPICS + name)
        if held is None:
            raise UnknownTopicOrPartition(f"there is no topic {name!r}")
        return held

    async def _change(self, name: str, change: ChangeTopic) -> TopicRecord:
        for attempt in range(TRIES):
            held = await self._held(name)
            record = change(decode_topic(held.value))
            try:
                version = await self._store.txn([Check(held.key, held.version), Put(held.key, encode_topic(record))])
            except MetadataConflict:
                if attempt == TRIES - 1:
                    raise
                continue
            await self._await(name, version)
            return record
        raise MetadataConflict

    async def _await(self, name: str, version: int) -> None:
        reply: Reply[None] = Reply()
        await self._router.put(AwaitTopic(name=name, version=version, reply=reply))
        await reply.wait()


async def _state(mailbox: Mailbox, leader_epoch: int) -> PartitionState:
    try:
        return await ask(mailbox, lambda reply: Describe(reply=reply))
    except DduomqError as error:
        return PartitionState("unavailable", leader_epoch, None, error.message, is_idle=False)


def _refuse_internal(name: str) -> None:
    if name.startswith(INTERNAL_PREFIX):
        raise InvalidTopic(f"topic {name!r} is the broker's own and can't be changed from outside")


def _line_key(group: str, topic: TopicRecord) -> str:
    return f"/line/{topic.topic_id}/{group}"
