"""What a node is to others: one alone, or one of a cluster.

The two have one shape, so that what puts a node together asks neither which it is. Always true: a node of a cluster is
registered only after its logs are open, and hands over what it leads before they are closed.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, cast

import attrs
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.cluster_admin import ClusterAdmin
from dduomq.actors.controller import Controller
from dduomq.actors.disk import DiskClient
from dduomq.actors.door import Corridor, Door
from dduomq.actors.following import follow
from dduomq.actors.isr import RecordWriter
from dduomq.actors.link import Links, LinkWorld
from dduomq.actors.partition_world import PartitionWorld
from dduomq.actors.registration import Nodes, Registration
from dduomq.actors.replication import Replication, ReplicationWorld
from dduomq.address import PeerAddress
from dduomq.cluster import versions
from dduomq.cluster.handshake import PeerBook
from dduomq.cluster.image import (
    CLUSTER,
    CLUSTER_VERSION,
    CONTROLLER,
    EPOCH,
    NodeAddress,
    NodeRecord,
    decode_value,
    encode_value,
)
from dduomq.cluster.ports import (
    Changed,
    Check,
    MetadataConflict,
    MetadataStore,
    MetadataUnavailable,
    MetadataUnknown,
    Put,
    Versioned,
)
from dduomq.config import Config
from dduomq.engine import ALONE, QUORUM, EngineMaker, Surroundings, on_disk
from dduomq.errors import ConfigError, NotLeader, UnknownTopicOrPartition
from dduomq.listeners.peer import PeerContext, PeerHandlers, PeerServer
from dduomq.listeners.peer_calls import call
from dduomq.listeners.peer_replication import ReplicaServer
from dduomq.listeners.services import ClientAddress, Services
from dduomq.log.files import Files
from dduomq.ports import Buffer
from dduomq.stores.embedded import EmbeddedStore
from dduomq.stores.engines import open_registry, parse_engine
from dduomq.wire.peer_calls import Call, CallAnswer
from dduomq.wire.peer_replication import PeerFetch

LEAVE_TIMEOUT_S = 10.0
VERSION_INTERVAL_S = 5.0
PEER = ""  # the name of the address that the other nodes use


class Membership(Protocol):
    """`peers`, `corridor` and `cluster` are None for a node alone."""

    store: MetadataStore
    cluster: ClusterAdmin | None
    peers: PeerServer | None
    corridor: Corridor | None

    async def attach(self, services: Services) -> None:
        """Be ready for what other nodes ask, before the listeners are opened."""

    async def open(self, nursery: trio.Nursery) -> tuple[str, int]:
        """Have the metadata; the cluster's id and the leader epoch of what this node leads alone."""

    def world(self, world: PartitionWorld) -> PartitionWorld:
        """What partitions work with."""

    async def enter(self, nursery: trio.Nursery) -> None:
        """The logs are open: others may count on this node from now on."""

    async def leave(self) -> None:
        """The node is about to stop."""

    def nodes(self, listener: str) -> Sequence[ClientAddress]:
        """Where clients of that listener reach the nodes that are alive."""

    def controller(self) -> int:
        """The node that decides who leads; -1 while there is none."""


class Alone:
    """A node that is the whole cluster."""

    peers: PeerServer | None = None
    corridor: Corridor | None = None
    cluster: ClusterAdmin | None = None

    def __init__(self, around: Surroundings) -> None:
        config = around.config
        self._around = around
        self._node_id = config.node_id
        self._rng = around.ports.rng
        reached = [*around.addresses, *config.advertise]
        self._reached = {a.name: (ClientAddress(config.node_id, a.host, a.port),) for a in reached}
        self._embedded = EmbeddedStore(
            cast(Files, around.ports.files), f"{config.data_dir}/{ALONE}", DiskClient(around.disk)
        )
        self.store: MetadataStore = self._embedded

    async def attach(self, _services: Services) -> None:
        """There are none."""

    async def open(self, _nursery: trio.Nursery) -> tuple[str, int]:
        """The id is minted at the very first start; the epoch is the number of starts."""
        ports, data = self._around.ports, self._around.config.data_dir
        files = cast(Files, ports.files)
        if await on_disk(ports.disk, lambda: files.exists(f"{data}/{QUORUM}")):
            raise ConfigError(f"the data directory {data} is that of a node of a cluster; start it with its --peers")
        await self._embedded.open()
        cluster, epoch = await self.store.get(CLUSTER), await self.store.get(EPOCH)
        next_epoch = 0 if epoch is None else cast(int, decode_value(epoch.value)) + 1
        cluster_id = f"{self._rng.getrandbits(128):032x}" if cluster is None else str(decode_value(cluster.value))
        await self.store.txn([Put(CLUSTER, encode_value(cluster_id)), Put(EPOCH, encode_value(next_epoch))])
        return cluster_id, next_epoch

    def world(self, world: PartitionWorld) -> PartitionWorld:
        return world

    async def enter(self, _nursery: trio.Nursery) -> None:
        """Nobody is waiting."""

    async def leave(self) -> None:
        """Nobody could go on."""

    def nodes(self, listener: str) -> Sequence[ClientAddress]:
        return self._reached.get(listener, (ClientAddress(self._node_id, "", 0),))

    def controller(self) -> int:
        return self._node_id


class Member:
    """A node of a cluster."""

    def __init__(self, around: Surroundings, make_engine: EngineMaker) -> None:
        ports, config = around.ports, around.config
        own = _own_address(around)
        self._around = around
        self._controller = -1
        self._book = PeerBook(
            node_id=config.node_id, directory_id="", secret=config.cluster_secret, rng=ports.rng,
            host=own.host, port=own.port,
        )  # fmt: skip
        self._handlers = PeerHandlers()
        self.peers: PeerServer | None = PeerServer(self._book, self._handlers, around.log)
        addresses = {peer.node_id: (peer.host, peer.port) for peer in config.peers}
        self._links = Links(LinkWorld(ports.network, ports.rng, self._book, around.log), addresses)
        self._engine = make_engine(around, self._book, self._handlers, self._links)
        self.store: MetadataStore = self._engine.store
        told = {a.name: a for a in [*around.addresses, *config.advertise]}
        reached = (NodeAddress(PEER, own.host, own.port), *(NodeAddress(a.name, a.host, a.port) for a in told.values()))
        self._registration = Registration(
            self.store,
            NodeRecord(
                config.node_id, around.directory_id, reached, config.zone, versions.LOWEST, versions.HIGHEST
            ),
            clock=ports.clock, rng=ports.rng, log=around.log,
        )  # fmt: skip
        self.cluster: ClusterAdmin | None = ClusterAdmin(
            self.store, self._registration, peers=[peer.node_id for peer in config.peers],
            default_factor=config.default_replication_factor, log=around.log, members=self._engine,
        )  # fmt: skip
        self._writer = RecordWriter(self.store, around.log)
        self._replication = Replication(
            ReplicationWorld(
                self._links,
                lambda: self._registration.epoch,
                ports.clock,
                around.log,
                config.replication_catch_up_bytes_per_second or None,
            )
        )
        self._nursery: trio.Nursery | None = None
        self.corridor: Corridor | None = Corridor(self._links, ports.clock, self._background)
        self._services: Services | None = None

    def _background(self, function: Callable[..., object], *arguments: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(function, *arguments)  # type: ignore[arg-type]  # coroutine functions all

    async def attach(self, services: Services) -> None:
        clock, disk, routes = services.clock, services.disk, services.routes

        def find(topic_id: str, partition: int) -> Mailbox:
            name = routes.name_of(topic_id)
            if name is None:
                raise UnknownTopicOrPartition(f"there is no topic with the id {topic_id} here yet")
            mailbox = routes.partition(name, partition)
            if isinstance(mailbox, Door):
                raise NotLeader(f"node {self._around.config.node_id} does not lead {mailbox.name}")
            return mailbox

        async def answer(_asker: PeerContext, body: Call, payload: memoryview) -> tuple[CallAnswer, Sequence[Buffer]]:
            return await call(services, body, payload)

        self._services = services
        self._handlers.on_request(Call, answer)
        self._handlers.on_request(PeerFetch, ReplicaServer(find, clock, disk).fetch)
        assert self.peers is not None
        await self._engine.prepare(self.peers)

    async def open(self, nursery: trio.Nursery) -> tuple[str, int]:
        """Found the cluster, join it, or come back to it. This waits for the others."""
        self._nursery = nursery
        self._links.start(nursery.start_soon)
        cluster_id = await self._engine.open(nursery)
        self._book.cluster_id = cluster_id
        held = await self.store.get(CLUSTER_VERSION)
        if held is not None:
            versions.check(cast(int, decode_value(held.value)))
        return cluster_id, 0

    def world(self, world: PartitionWorld) -> PartitionWorld:
        return attrs.evolve(
            world, node_id=self._around.config.node_id, follows=self._replication, changes=self._writer,
            replica_lag_max_ms=self._around.config.replica_lag_max_ms,
        )  # fmt: skip

    async def enter(self, nursery: trio.Nursery) -> None:
        """Register; take part in being the controller, and in replication."""
        around, services = self._around, self._services
        assert services is not None
        nursery.start_soon(self._writer.run)
        nursery.start_soon(self._replication.run)
        nursery.start_soon(self._follow_controller)
        nursery.start_soon(self._be_found)
        await nursery.start(self._registration.run)
        self._registration.on_change(self._learn)
        controller = Controller(
            self.store, self._registration, supervisor=around.supervisor,
            is_unclean=lambda topic: services.admin.settings_of(topic).unclean_leader_election_enable,
            clock=around.ports.clock, rng=around.ports.rng, log=around.log,
        )  # fmt: skip
        controller.start(nursery)
        nursery.start_soon(self._raise_version, controller)
        await self._registration.admitted()

    def _learn(self, nodes: Nodes) -> None:
        """Links go where nodes say that they are."""
        for record in nodes.records.values():
            if record.addresses:
                self._links.learn(record.node_id, record.addresses[0].host, record.addresses[0].port)

    async def _raise_version(self, controller: Controller) -> None:
        """While this node is the controller, the cluster has the highest version that all of its nodes speak."""
        while True:
            await trio.sleep(VERSION_INTERVAL_S)
            nodes = self._registration.nodes.records
            if not controller.epoch or len(nodes) < len(self.cluster.known if self.cluster else ()):
                continue  # a node that is away may speak less
            with suppress(MetadataConflict, MetadataUnavailable, MetadataUnknown):
                held = await self.store.get(CLUSTER_VERSION)
                now = 0 if held is None else cast(int, decode_value(held.value))
                wanted = versions.raised(now, nodes.values())
                if wanted > now:
                    guard = Check(CLUSTER_VERSION, 0 if held is None else held.version)
                    await self.store.txn([guard, Put(CLUSTER_VERSION, encode_value(wanted))])
                    self._around.log.info("cluster_version", version=wanted, before=now)

    async def _be_found(self) -> None:
        """Be in the registry that whoever looks for the nodes asks."""
        config, members = self._around.config, [self._record(peer) for peer in self._around.config.peers]
        async with (
            open_registry(
                config.registry, store=self.store, members=members, session_timeout_ms=config.session_timeout_ms,
                rng=self._around.ports.rng,
            ) as registry,
            registry.register(self._registration.record),
        ):  # fmt: skip
            await trio.sleep_forever()

    @staticmethod
    def _record(peer: PeerAddress) -> NodeRecord:
        return NodeRecord(peer.node_id, "", (NodeAddress(PEER, peer.host, peer.port),))

    async def _follow_controller(self) -> None:
        def seen(held: Sequence[Versioned]) -> None:
            found = [one for one in held if one.key == CONTROLLER]
            self._controller = cast(int, decode_value(found[0].value)) if found else -1

        def changed(change: Changed) -> None:
            if change.key == CONTROLLER:
                self._controller = -1 if change.value is None else cast(int, decode_value(change.value))

        await follow(
            self.store, CONTROLLER, all_of=seen, one=changed, rng=self._around.ports.rng, log=self._around.log
        )  # fmt: skip

    async def leave(self) -> None:
        if self._registration.is_registered:
            await self._registration.leave(LEAVE_TIMEOUT_S)
            await self._engine.leave()

    def nodes(self, listener: str) -> Sequence[ClientAddress]:
        records = self._registration.nodes.records
        return [_reached(records[node_id], listener) for node_id in sorted(records)]

    def controller(self) -> int:
        return self._controller


def _reached(record: NodeRecord, listener: str) -> ClientAddress:
    """Where clients of that listener reach a node; one that has no such listener is reached as by the other nodes."""
    found = [address for address in record.addresses if address.listener == listener] or record.addresses
    return ClientAddress(record.node_id, found[0].host, found[0].port)


def is_member(config: Config) -> bool:
    """Whether a node is one of a cluster; else it is alone."""
    return len(config.peers) > 1 or parse_engine(config.metadata).kind != "embedded"


def _own_address(around: Surroundings) -> PeerAddress:
    """Where other nodes dial this one. Raises `ConfigError` if nobody says."""
    config = around.config
    for peer in config.peers:
        if peer.node_id == config.node_id:
            return peer
    reached = [*config.advertise, *around.addresses]
    if not reached:
        raise ConfigError("a node of a cluster is reached by the others: give it --listen, or --peers")
    return PeerAddress(config.node_id, reached[0].host, reached[0].port)
