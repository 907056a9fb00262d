"""A few nodes that keep one partition, over links of function calls, on simulated disks, in virtual time."""

from contextlib import asynccontextmanager
from random import Random

import attrs
import trio

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.disk import DiskActor, DiskClient
from dduomq.actors.isr import RecordWriter
from dduomq.actors.partition import PartitionActor, PartitionSpec, PartitionWorld
from dduomq.actors.partition_messages import ALL_IN_SYNC, Append, Describe, Fetch, FindOffset
from dduomq.actors.replica_messages import Assign
from dduomq.actors.replication import Replication, ReplicationWorld
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.image import (
    NODES,
    PARTITIONS,
    PartitionRecord,
    decode_partition,
    encode_partition,
    encode_value,
)
from dduomq.cluster.ports import Check, Del, MetadataConflict, PeerUnavailable, Put, Resync
from dduomq.errors import DduomqError, UnknownTopicOrPartition
from dduomq.listeners.connection import FilePart
from dduomq.listeners.peer_replication import ReplicaServer
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import PendingBatch
from dduomq.log.segment import LOG, parse_name
from dduomq.log.settings import TopicSettings
from dduomq.observe import silent_log
from dduomq.stores.embedded import EmbeddedStore
from dduomq.testing.clock import SimClock
from dduomq.testing.disk import Platter, SimDisk
from dduomq.wire.batch import build, iter_headers, read_header
from dduomq.wire.peer_replication import PeerFetch, PeerFetched
from dduomq.wire.plain import from_plain, to_plain
from dduomq.wire.records import BatchBuilder, decode

TOPIC_ID = "f" * 32
DIRECTORY = "data/topics/t-0"
LATENCY_S = 0.001


@attrs.frozen
class Asker:
    node_id: int
    connection: int = 0


def _ignored(_value, _error):
    """Nobody waits for it."""


def batch_of(*values, **fields):
    """A batch with these records; `fields` as those of `wire.batch.build`."""
    builder = BatchBuilder()
    for value in values:
        assert builder.append(1_700_000_000_000, b"k", value, [])
    plain = builder.build()
    header = read_header(plain)
    known = {
        "count": header.count, "last_offset_delta": header.last_offset_delta,
        "base_timestamp": 1_700_000_000_000, "max_timestamp": 1_700_000_000_000,
    }  # fmt: skip
    return build(bytes(plain[61:]), **(known | fields))


def _sent(chunk):
    """What goes from a file goes late, as it does when a socket is full."""
    if not isinstance(chunk, FilePart):
        return chunk
    try:
        return chunk.lease.read(chunk.position, chunk.size)
    finally:
        chunk.lease.close()


class FakeLink:
    """Calls the other node's handler, with everything turned into plain values and back on the way."""

    def __init__(self, cluster, me, other):
        self.cluster, self.me, self.other = cluster, me, other

    async def request(self, body, payload=(), *, timeout_s):
        assert not payload
        await trio.sleep(LATENCY_S)
        node = self._node()
        asked = from_plain(PeerFetch, to_plain(body))
        with trio.move_on_after(timeout_s):
            answer, chunks = await node.server.fetch(
                Asker(self.me, self.cluster.nodes[self.me].life), asked, memoryview(b"")
            )
            await trio.sleep(LATENCY_S)
            if self._node() is not node or node.life != self.cluster.nodes[self.other].life:
                raise PeerUnavailable("it has gone meanwhile")
            return from_plain(PeerFetched, to_plain(answer)), memoryview(b"".join(map(_sent, chunks)))
        raise PeerUnavailable("no answer")

    def _node(self):
        node = self.cluster.nodes[self.other]
        if not node.is_up or (self.me, self.other) in self.cluster.cuts or (self.other, self.me) in self.cluster.cuts:
            raise PeerUnavailable(f"node {self.other} can't be reached")
        return node


class FakeLinks:
    def __init__(self, cluster, me):
        self.cluster, self.me = cluster, me

    def link(self, node_id):
        return FakeLink(self.cluster, self.me, node_id)


class Store:
    """The one store of all; `fault(operations)` may raise before a transaction, `after` when it has been applied."""

    def __init__(self, store):
        self._store = store
        self.get, self.scan, self.watch = store.get, store.scan, store.watch
        self.fault = lambda operations: None
        self.after = lambda operations: None

    async def txn(self, operations):
        self.fault(operations)
        version = await self._store.txn(operations)
        self.after(operations)
        return version


class Node:
    """One node's life after life: the disk stays."""

    def __init__(self, cluster, node_id):
        self.cluster, self.node_id = cluster, node_id
        self.platter = Platter(Random(f"{cluster.seed}-{node_id}"))
        self.is_up = False
        self.life = 0
        self.epoch = 0
        self.mailbox = None
        self._scope = None
        self._ended = None

    async def start(self):
        assert not self.is_up
        self.life += 1
        self.epoch = await self.cluster.store.txn([Put(f"{NODES}{self.node_id}", encode_value(self.life))])
        self._ended = trio.Event()
        started = trio.Event()
        self.cluster.nursery.start_soon(self._live, started)
        await started.wait()

    async def _live(self, started):
        cluster = self.cluster
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                log = silent_log()
                clock = SimClock()
                supervisor = Supervisor(nursery, log)
                disk = Mailbox("disk", messages_max=1_000_000)
                executor = SimDisk(nursery, self.platter, Random(f"{cluster.seed}-{self.node_id}-{self.life}"))
                supervisor.start(disk, lambda box: DiskActor(box, executor))
                replication = Replication(
                    ReplicationWorld(FakeLinks(cluster, self.node_id), lambda: self.epoch, clock, log)
                )
                writer = RecordWriter(cluster.store, log)
                nursery.start_soon(replication.run)
                nursery.start_soon(writer.run)
                world = PartitionWorld(
                    clock, self.platter.files, MemoryFiles(), disk, Mailbox("janitor"), log, node_id=self.node_id,
                    follows=replication, changes=writer,
                )  # fmt: skip
                record, version = await cluster.record()
                self.mailbox = Mailbox("t-0")
                known, life = [record, version], self.life

                def make(box):
                    spec = PartitionSpec(
                        "t", 0, TOPIC_ID, DIRECTORY, cluster.settings, known[0].leader_epoch, False, *known,
                        is_found=life > 1,
                    )  # fmt: skip
                    return PartitionActor(box, spec, world, lambda _result: None)

                self.server = ReplicaServer(self._find, clock, DiskClient(disk))
                supervisor.start(self.mailbox, make)
                nursery.start_soon(self._watch, known)
                self.is_up = True
                started.set()
                await trio.sleep_forever()
        self._ended.set()

    def _find(self, topic_id, partition):
        if (topic_id, partition) != (TOPIC_ID, 0):
            raise UnknownTopicOrPartition("nobody knows it")
        return self.mailbox

    async def _watch(self, known):
        async with self.cluster.store.watch(PARTITIONS) as changes:
            async for change in changes:
                if self.node_id in self.cluster.deaf:
                    continue
                if isinstance(change, Resync):
                    record, version = await self.cluster.record()
                else:
                    record, version = decode_partition(change.value), change.version
                known[:] = record, version
                self.mailbox.post(Assign(record=record, version=version))

    async def kill(self, *, power=False):
        """The process dies; with `power` what was not synced is left to chance, too."""
        self.is_up = False
        if power:
            self.platter.lose_power()
        else:
            self.platter.kill()
        self._scope.cancel()
        await self._ended.wait()

    async def describe(self):
        return await ask(self.mailbox, lambda reply: Describe(reply=reply))

    def stored(self):
        """The bytes of all batches on this node, one behind the other."""
        files = self.platter.files
        names = [name for name in files.list(DIRECTORY) if parse_name(name, LOG) is not None]
        return b"".join(files.read(f"{DIRECTORY}/{name}") for name in sorted(names))

    def values(self):
        """(offset, value) of every record on this node."""
        data = self.stored()
        return [
            (record.offset, bytes(record.value))
            for position, header in iter_headers(data)
            if not header.is_control and header.count
            for record in decode(memoryview(data)[position : position + header.size])
        ]


class Cluster:
    """Nodes 1, 2, 3. `deaf`: nodes that don't hear of the metadata; `cuts`: pairs that don't hear of one another."""

    def __init__(self, nursery, store, seed, config, nodes):
        self.nursery, self.seed = nursery, seed
        self.store = Store(store)
        self.settings = TopicSettings.from_config({"segment.bytes": "100000", **config})
        self.cuts = set()
        self.deaf = set()
        self.nodes = {at: Node(self, at) for at in range(1, nodes + 1)}

    async def create(self, replicas, isr=None):
        record = PartitionRecord("t", TOPIC_ID, 0, replicas, replicas[0], 0, isr or replicas)
        await self.store.txn([Put(record.key, encode_partition(record))])

    async def record(self):
        (found,) = await self.store.scan(PARTITIONS)
        return decode_partition(found.value), found.version

    async def change(self, make):
        """What a controller does: the record is replaced by what `make(record)` gives; None: it stays."""
        while True:
            record, version = await self.record()
            changed = make(record)
            if changed is None:
                return
            changed = attrs.evolve(changed, partition_epoch=record.partition_epoch + 1)
            if changed.leader != record.leader:
                changed = attrs.evolve(changed, leader_epoch=record.leader_epoch + 1)
            try:
                await self.store.txn([Check(record.key, version), Put(record.key, encode_partition(changed))])
                return
            except MetadataConflict:
                continue

    async def elect(self, leader, isr=None):
        await self.change(lambda record: attrs.evolve(record, leader=leader, isr=isr or record.isr))

    async def away(self, node_id):
        """A controller hears that a node was away: it is in sync no more, unless it is the last one."""

        def without(record):
            isr = tuple(node for node in record.isr if node != node_id) or record.isr
            alive = [node for node in isr if self.nodes[node].is_up]
            leader = record.leader
            if leader == node_id or leader not in isr:
                leader = alive[0] if alive else -1
            if (isr, leader) == (record.isr, record.leader):
                return None
            return attrs.evolve(record, isr=isr, leader=leader)

        if not self.nodes[node_id].is_up:
            await self.store.txn([Del(f"{NODES}{node_id}")])
        await self.change(without)

    async def lead(self):
        """A controller looks whether somebody may lead again."""

        def found(record):
            alive = [node for node in record.isr if self.nodes[node].is_up]
            return attrs.evolve(record, leader=alive[0]) if record.leader == -1 and alive else None

        await self.change(found)

    async def send(self, node_id, *values, acks=ALL_IN_SYNC, timeout_s=30, **fields):
        """Append one batch at a node."""
        data = batch_of(*values, **fields)
        pending = PendingBatch(memoryview(data), read_header(data), is_own=True)
        return await self.append(node_id, pending, acks=acks, timeout_s=timeout_s)

    async def send_aside(self, node_id, *values):
        """The same, without waiting for what becomes of it."""
        data = batch_of(*values)
        pending = PendingBatch(memoryview(data), read_header(data), is_own=True)
        self.nodes[node_id].mailbox.post(Append(batch=pending, deadline=float("inf"), reply=Reply(_ignored)))

    async def append(self, node_id, pending, *, acks=ALL_IN_SYNC, timeout_s=30):
        with trio.fail_after(timeout_s):
            return await ask(
                self.nodes[node_id].mailbox,
                lambda reply: Append(batch=pending, deadline=float("inf"), acks=acks, reply=reply),
            )

    async def send_to_leader(self, *values, timeout_s=30, **fields):
        """As a producer does: ask who leads, send, and again until it is acked."""
        with trio.fail_after(timeout_s):
            while True:
                record, _ = await self.record()
                if record.leader != -1 and self.nodes[record.leader].is_up:
                    try:
                        return await self.send(record.leader, *values, **fields)
                    except DduomqError as error:
                        if not error.retriable:
                            raise
                await trio.sleep(0.05)

    async def read(self, node_id, offset=0, **fields):
        return await ask(
            self.nodes[node_id].mailbox,
            lambda reply: Fetch(
                offset=offset, max_bytes=1_000_000, isolation=0, leader_epoch=-1, watcher=None, reply=reply, **fields
            ),
        )

    async def offset(self, node_id, timestamp_ms=-1):
        return await ask(
            self.nodes[node_id].mailbox, lambda reply: FindOffset(timestamp_ms=timestamp_ms, isolation=0, reply=reply)
        )

    async def until(self, is_so, timeout_s=60):
        """Wait until `await is_so()`."""
        with trio.fail_after(timeout_s):
            while not await is_so():  # noqa: ASYNC110  # what is waited for is a state, not an event
                await trio.sleep(0.02)

    async def until_isr(self, *nodes, timeout_s=60):
        async def is_so():
            return set((await self.record())[0].isr) == set(nodes)

        await self.until(is_so, timeout_s)

    async def until_alike(self, *node_ids, timeout_s=60):
        """Wait until these nodes have the same, and all of it counts."""

        async def is_so():
            states = [await self.nodes[at].describe() for at in node_ids]
            if any(state.log is None for state in states):
                return False
            marks = {(state.log.high_watermark, state.log.log_end_offset) for state in states}
            return len(marks) == 1 and len(set(marks.pop())) == 1

        await self.until(is_so, timeout_s)
        assert len({self.nodes[at].stored() for at in node_ids}) == 1


@asynccontextmanager
async def running(*, seed=0, nodes=3, replicas=None, isr=None, start=True, **config):
    """A cluster whose nodes are up; node 1 leads."""
    async with trio.open_nursery() as nursery:
        platter = Platter(Random(f"{seed}-store"))
        disk = Mailbox("store-disk", messages_max=1_000_000)
        executor = SimDisk(nursery, platter, Random(f"{seed}-store-disk"))
        Supervisor(nursery, silent_log()).start(disk, lambda box: DiskActor(box, executor))
        store = EmbeddedStore(platter.files, "meta", DiskClient(disk))
        await store.open()
        named = {key.replace("_", "."): value for key, value in config.items()}
        cluster = Cluster(nursery, store, seed, named, nodes)
        await cluster.create(replicas or tuple(cluster.nodes), isr)
        if start:
            for node in cluster.nodes.values():
                await node.start()
        yield cluster
        nursery.cancel_scope.cancel()
