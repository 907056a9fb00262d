"""How a node is put together, and taken apart: the only place that knows all its parts.

Always true: what is started is stopped in the opposite order; a node that ends in good order has closed every log and
marked its directory clean.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs
import structlog
import trio

from dduomq.actors.actor import Mailbox, ask
from dduomq.actors.admin import Admin, ConfigValue, TopicDefaults
from dduomq.actors.alarms import Alarms
from dduomq.actors.coordinator_table import CoordinatorWorld
from dduomq.actors.delays import Delays
from dduomq.actors.disk import DiskActor, DiskClient
from dduomq.actors.door import Corridor, Door
from dduomq.actors.following import FAILURES, Pause, follow
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.groups import Groups
from dduomq.actors.janitor import Chores, JanitorActor, Tick
from dduomq.actors.nursery import open_flat_nursery
from dduomq.actors.partition import PartitionWorld
from dduomq.actors.partition_messages import Checkpoint, Flush, Retain
from dduomq.actors.router import (
    AwaitOpen,
    CloseAll,
    PartitionSeen,
    PartitionsSeen,
    RouterActor,
    RouterSetup,
    TopicSeen,
    TopicsSeen,
)
from dduomq.actors.routes import Routes
from dduomq.actors.supervisor import ActorStatus, Supervisor
from dduomq.address import Address
from dduomq.cluster.image import NO_LEADER, PARTITIONS, TOPICS, PartitionRecord, decode_partition, decode_topic
from dduomq.cluster.ports import Changed, MetadataStore, Versioned
from dduomq.config import Config
from dduomq.engine import EngineMaker, Surroundings, on_disk
from dduomq.listeners.admit import Gate
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.pipe import PipeEnd, open_pipe
from dduomq.listeners.serve import Server
from dduomq.listeners.services import Services
from dduomq.log.datadir import DataDir, open_data_dir
from dduomq.log.files import Files
from dduomq.log.leftovers import sweep
from dduomq.log.memory import MemoryFiles
from dduomq.membership import Alone, Member, Membership, is_member
from dduomq.ports import Listener, Ports
from dduomq.stores.engines import open_outside, parse_engine
from dduomq.wire.peer_calls import COORDINATOR, PARTITION, REPLICA, WHEEL

if TYPE_CHECKING:
    from dduomq.client.client import Client

TICK_MS = 250
SCRATCH_BYTES = 256 * 1024
CLOSE_TIMEOUT_S = 60
DISK_MAILBOX_MESSAGES = 1_000_000  # bounded by the partitions: a few jobs each


@attrs.frozen
class Node:
    """A running node. `address` is where its first listener can be reached, None without one."""

    node_id: int
    cluster_id: str
    addresses: tuple[Address, ...]
    services: Services
    server: Server
    _supervisor: Supervisor
    _doors: trio.Nursery

    @property
    def address(self) -> str | None:
        return str(self.addresses[0]) if self.addresses else None

    @property
    def admin(self) -> Admin:
        return self.services.admin

    def connect(self, **options: Any) -> AbstractAsyncContextManager["Client"]:
        """A client of this node; the options are those of `dduomq.connect`. Needs no port."""
        from dduomq.client.client import connect

        if self.addresses:
            return connect(str(self.addresses[0]), **options)
        return connect("in-process:0", dial=self._dial, **options)

    async def _dial(self, _host: str, _port: int) -> PipeEnd:
        ours, theirs = open_pipe()
        self.server.attach(theirs, self._doors)
        return ours

    def actors(self) -> list[ActorStatus]:
        """The live actors, as console and metrics see them."""
        return self._supervisor.statuses()


async def _set_when_cancelled(event: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        event.set()


async def _cancel_when_set(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class Builder:
    """The steps of a start, and of a stop."""

    def __init__(
        self, ports: Ports, config: Config, log: structlog.stdlib.BoundLogger, gate: Gate, make_engine: EngineMaker
    ) -> None:  # fmt: skip
        self._ports = ports
        self._config = config
        self._log = log
        self._gate = gate
        self._files = cast(Files, ports.files)
        self._router = Mailbox("router", messages_max=DISK_MAILBOX_MESSAGES)
        self._cluster_id = ""
        self._make_engine = make_engine
        self._membership: Membership | None = None
        self._is_routed = False

    async def open_directory(self, stack: AsyncExitStack) -> DataDir:
        """Lock the data directory and learn who it is."""
        config, rng = self._config, self._ports.rng
        new_id = f"{rng.getrandbits(128):032x}"
        directory: DataDir = await on_disk(
            self._ports.disk,
            lambda: open_data_dir(self._files, config.data_dir, config.node_id, new_id),
        )
        stack.callback(directory.close)
        return directory

    async def listen(self, stack: AsyncExitStack) -> list[Listener]:
        listeners = []
        for address in self._config.listen:
            listener = await self._ports.network.listen(address.host, address.port)
            stack.push_async_callback(listener.aclose)
            listeners.append(listener)
        return listeners

    async def run(
        self,
        directory: DataDir,
        listeners: list[Listener],
        stopping: trio.Event,
        task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Live until `stopping`. Shielded: whoever cancels the node gets an orderly stop, not a torn one."""
        async with open_flat_nursery() as watch:
            watch.start_soon(_set_when_cancelled, stopping)
            with trio.CancelScope(shield=True):
                await self._live(directory, listeners, stopping, task_status)
            watch.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()  # who was cancelled while it started says so here

    async def _live(
        self,
        directory: DataDir,
        listeners: list[Listener],
        stopping: trio.Event,
        task_status: trio.TaskStatus[Node],
    ) -> None:
        async with AsyncExitStack() as engines, open_flat_nursery() as nursery:
            async with open_flat_nursery() as doors:
                with trio.CancelScope() as starting:  # it may take long, as other nodes are waited for
                    doors.start_soon(_cancel_when_set, stopping, starting)
                    outside = await self._open_outside(engines)
                    node = await self.start(nursery, doors, directory, listeners, outside)
                    task_status.started(node)
                    await stopping.wait()
                if self._membership is not None:
                    await self._membership.leave()
                doors.cancel_scope.cancel()
            if self._is_routed:
                await self.stop(directory)
            else:
                with trio.CancelScope(shield=True):
                    await self._ports.disk.aclose()
            nursery.cancel_scope.cancel()

    async def _open_outside(self, engines: AsyncExitStack) -> MetadataStore | None:
        """The engine that stands elsewhere, if `--metadata` names one. Raises `ConfigError` if it does not answer."""
        config = self._config
        if parse_engine(config.metadata).kind == "embedded":
            return None
        return await engines.enter_async_context(
            open_outside(config.metadata, session_timeout_ms=config.session_timeout_ms)
        )

    async def start(
        self,
        nursery: trio.Nursery,
        doors: trio.Nursery,
        directory: DataDir,
        listeners: list[Listener],
        outside: MetadataStore | None,
    ) -> Node:
        """Bring everything up, bottom first; returns when every log is open."""
        ports, config = self._ports, self._config
        supervisor = Supervisor(nursery, self._log)
        disk = Mailbox("disk", messages_max=DISK_MAILBOX_MESSAGES)
        supervisor.start(disk, lambda box: DiskActor(box, ports.disk))
        janitor = Mailbox("janitor", messages_max=DISK_MAILBOX_MESSAGES)
        chores = Chores(Flush(), Checkpoint(), Retain())
        supervisor.start(janitor, lambda box: JanitorActor(box, chores, config.retention_check_interval_ms))
        addresses = tuple(
            Address(asked.name, listener.host, listener.port)
            for asked, listener in zip(config.listen, listeners, strict=True)
        )
        around = Surroundings(ports, config, self._log, disk, supervisor, directory.directory_id, addresses, outside)
        membership = self._membership = self._join(around)
        services = self._services(nursery, supervisor, membership, disk)
        await membership.attach(services)
        server = Server(services)
        for listener, address in zip(listeners, config.listen, strict=True):
            doors.start_soon(server.serve, listener, address.name, doors)
        doors.start_soon(server.sweep)
        self._cluster_id, epoch = await membership.open(nursery)
        await on_disk(ports.disk, lambda: directory.take_clean(self._files))
        world = PartitionWorld(ports.clock, self._files, MemoryFiles(), disk, janitor, self._log)
        await self._route(nursery, supervisor, services, membership.world(world), epoch, is_clean=directory.clean)
        nursery.start_soon(self._tick, janitor)
        await membership.enter(nursery)
        services.ready.set()
        return Node(config.node_id, self._cluster_id, addresses, services, server, supervisor, doors)

    def _join(self, around: Surroundings) -> Membership:
        return Member(around, self._make_engine) if is_member(around.config) else Alone(around)

    async def _route(
        self,
        nursery: trio.Nursery,
        supervisor: Supervisor,
        services: Services,
        world: PartitionWorld,
        epoch: int,
        *,
        is_clean: bool,
    ) -> None:
        """Open the partitions that are kept here, and follow what the metadata say of all."""
        assert self._membership is not None
        store, corridor = self._membership.store, self._membership.corridor
        topics_directory = f"{self._config.data_dir}/topics"

        def on_change() -> None:
            services.groups.follow()
            services.delays.follow()

        open_door = None if corridor is None else partial(_open_door, corridor, services.routes)
        setup = RouterSetup(
            world, supervisor, topics_directory, epoch, is_clean, services.admin.settings_of, open_door, on_change
        )
        await self._sweep_leftovers(store, topics_directory)
        supervisor.start(self._router, lambda box: RouterActor(box, setup, services.routes))
        self._is_routed = True
        await self._first_look(store, has_records=corridor is not None)
        nursery.start_soon(self._follow_topics, store)
        if corridor is not None:
            nursery.start_soon(self._follow_partitions, store)

    def _services(
        self, nursery: trio.Nursery, supervisor: Supervisor, membership: Membership, disk: Mailbox
    ) -> Services:  # fmt: skip
        """What the listeners ask, before anything of it runs."""
        ports, config, corridor = self._ports, self._config, membership.corridor
        routes, alarms = Routes(config.node_id), Alarms()
        nursery.start_soon(alarms.run)
        admin = Admin(
            store=membership.store, routes=routes, router=self._router, clock=ports.clock, rng=ports.rng,
            log=self._log, defaults=TopicDefaults(config.default_partitions, config.auto_create_topics, config.topic),
            cluster=membership.cluster,
            open_replica=None if corridor is None else partial(_open_replica, corridor),
        )  # fmt: skip
        topics = GroupTopics(admin, routes, self._log, nursery.start_soon)

        def open_wheel(number: int) -> Mailbox:
            assert corridor is not None
            return Door(f"delay-{number}", corridor, WHEEL, "", number, partial(delays.where, number))

        def open_coordinator(number: int) -> Mailbox:
            assert corridor is not None
            return Door(f"groups-{number}", corridor, COORDINATOR, "", number, partial(groups.where, number))

        delays = Delays(
            admin, supervisor, ports.clock, disk, alarms, routes, topics, self._log, nursery.start_soon,
            None if corridor is None else open_wheel,
        )  # fmt: skip
        shared = CoordinatorWorld(
            ports.clock, ports.rng, disk, alarms, routes, self._log, topics, delays.wheel_now, config.assignors
        )
        groups = Groups(admin, supervisor, shared, None if corridor is None else open_coordinator)
        return Services(
            ports.clock, routes, admin, self._gate, Buffers(config.requests_bytes_max), DiskClient(disk),
            config.node_id, lambda: self._cluster_id, trio.Event(), membership.nodes, membership.controller,
            self._log, bytearray(SCRATCH_BYTES), config.connections_max, config.connections_idle_ms, config.data_dir,
            tuple(ConfigValue(*entry) for entry in config.entries()), groups, delays, topics, membership.peers,
        )  # fmt: skip

    async def _sweep_leftovers(self, store: MetadataStore, topics_directory: str) -> None:
        """Finish deletions that a crash cut short, and moves to other nodes; report directories that no topic owns."""
        names, known = dict[str, str](), dict[str, str]()
        for held in await self._scan(store, TOPICS):
            topic = decode_topic(held.value)
            names[topic.topic_id] = topic.name
            known.update({f"{topic.name}-{at}": topic.topic_id for at in range(topic.partitions)})
        records = [decode_partition(held.value) for held in await self._scan(store, PARTITIONS)]
        elsewhere = {
            f"{names[record.topic_id]}-{record.partition}"
            for record in records
            if record.topic_id in names and self._config.node_id not in record.replicas
        }
        strangers = await on_disk(self._ports.disk, lambda: sweep(self._files, topics_directory, known, elsewhere))
        for name in strangers:
            self._log.warning("directory_without_topic", directory=f"{topics_directory}/{name}")

    async def _scan(self, store: MetadataStore, prefix: str) -> Sequence[Versioned]:
        """A start waits for the metadata as long as it must: they may be out of reach again, as they were before."""
        pause = Pause(self._ports.rng)
        while True:
            try:
                return await store.scan(prefix)
            except FAILURES as error:
                self._log.warning("start_waits_for_metadata", reason=error.message)
            await pause.failed()

    async def _first_look(self, store: MetadataStore, *, has_records: bool) -> None:
        if has_records:
            await self._router.put(_all_partitions(await self._scan(store, PARTITIONS)))
        await self._router.put(_all_topics(await self._scan(store, TOPICS)))
        await ask(self._router, lambda reply: AwaitOpen(reply=reply))

    async def _follow_topics(self, store: MetadataStore) -> None:
        await follow(
            store, TOPICS, all_of=lambda held: self._router.post(_all_topics(held)),
            one=lambda change: self._router.post(_seen(change)), rng=self._ports.rng, log=self._log,
        )  # fmt: skip

    async def _follow_partitions(self, store: MetadataStore) -> None:
        await follow(
            store, PARTITIONS, all_of=lambda held: self._router.post(_all_partitions(held)),
            one=lambda change: self._router.post(PartitionsSeen(partitions=(_partition_seen(change),))),
            rng=self._ports.rng, log=self._log,
        )  # fmt: skip

    async def _tick(self, janitor: Mailbox) -> None:
        while True:
            janitor.offer(Tick(now_ms=int(self._ports.clock.monotonic() * 1000)))
            await trio.sleep(TICK_MS / 1000)

    async def stop(self, directory: DataDir) -> None:
        """Close every log, then say that the directory is clean."""
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True) as scope:
            try:
                await ask(self._router, lambda reply: CloseAll(reply=reply))
                await on_disk(self._ports.disk, lambda: directory.mark_clean(self._files))
                self._log.info("node_stopped", clean=True)
            except Exception as error:  # the next start recovers; stopping must not fail for it
                self._log.error("node_stopped", clean=False, reason=str(error))
        if scope.cancelled_caught:
            self._log.error("node_stopped", clean=False, reason="closing the logs took too long")
        with trio.CancelScope(shield=True):
            await self._ports.disk.aclose()


def _open_door(corridor: Corridor, routes: Routes, topic: str, topic_id: str, partition: int) -> Door:
    """The way to a partition that is led elsewhere, or nowhere, or some time here."""

    def where() -> Mailbox | int | None:
        route = routes.table.get(topic)
        if route is None or route.record.topic_id != topic_id or partition >= len(route.records):
            return None
        leader = route.records[partition].leader
        if leader == routes.node_id:
            mailbox = route.partitions[partition]
            return None if mailbox is door else mailbox
        return None if leader == NO_LEADER else leader

    door = Door(f"{topic}-{partition}", corridor, PARTITION, topic_id, partition, where)
    return door


def _open_replica(corridor: Corridor, record: PartitionRecord, node_id: int) -> Door:
    """The way to one replica, whoever leads."""
    name = f"{record.topic}-{record.partition} on node {node_id}"
    return Door(name, corridor, REPLICA, record.topic_id, record.partition, lambda: node_id)


def _all_topics(held: Sequence[Versioned]) -> TopicsSeen:
    return TopicsSeen(topics=tuple((decode_topic(one.value), one.version) for one in held))


def _all_partitions(held: Sequence[Versioned]) -> PartitionsSeen:
    seen = (_partition_seen(Changed(one.key, one.value, one.version)) for one in held)
    return PartitionsSeen(partitions=tuple(seen), is_whole=True)


def _partition_seen(change: Changed) -> PartitionSeen:
    topic_id, _, partition = change.key.removeprefix(PARTITIONS).rpartition("/")
    record = None if change.value is None else decode_partition(change.value)
    return PartitionSeen(topic_id, int(partition), record, change.version)


def _seen(change: Changed) -> TopicSeen:
    record = None if change.value is None else decode_topic(change.value)
    return TopicSeen(name=change.key.removeprefix(TOPICS), record=record, version=change.version)
