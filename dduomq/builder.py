"""How a node is put together, and taken apart: the only place that knows all its parts.

Always true: what is started is stopped in the opposite order; a node that ends in good order has closed every log and
marked its directory clean.
"""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
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
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.groups import Groups
from dduomq.actors.janitor import Chores, JanitorActor, Tick
from dduomq.actors.nursery import open_flat_nursery
from dduomq.actors.partition import PartitionWorld
from dduomq.actors.partition_messages import Checkpoint, Flush, Retain
from dduomq.actors.router import AwaitOpen, CloseAll, RouterActor, RouterSetup, TopicSeen, TopicsSeen
from dduomq.actors.routes import Routes
from dduomq.actors.supervisor import ActorStatus, Supervisor
from dduomq.cluster.image import CLUSTER, EPOCH, TOPICS, decode_topic, decode_value, encode_value
from dduomq.cluster.ports import Changed, MetadataStore, Put, Resync
from dduomq.config import Address, Config
from dduomq.errors import ConfigError
from dduomq.listeners.admit import Gate
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.pipe import PipeEnd, open_pipe
from dduomq.listeners.serve import Server
from dduomq.listeners.services import ClientAddress, Services
from dduomq.log.datadir import DataDir, open_data_dir
from dduomq.log.files import Files
from dduomq.log.memory import MemoryFiles
from dduomq.ports import DiskExecutor, Listener, Ports
from dduomq.stores.embedded import EmbeddedStore

if TYPE_CHECKING:
    from dduomq.client.client import Client

TICK_MS = 250
SCRATCH_BYTES = 256 * 1024
CLOSE_TIMEOUT_S = 60
TOPIC_ID_LINE = re.compile(rb"^topic_id: ([0-9a-f]{32})$", re.MULTILINE)  # a torn one must not match
DISK_MAILBOX_MESSAGES = 1_000_000  # bounded by the partitions: a few jobs each


async def _on_disk(disk: DiskExecutor, job: Callable[[], Any]) -> Any:
    """Run one job in a disk thread before the disk actor lives, and await it to its end."""
    done = trio.Event()
    results: list[object] = []

    def finished(given: list[object]) -> None:
        results.extend(given)
        done.set()

    disk.submit([job], finished)
    with trio.CancelScope(shield=True):
        await done.wait()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


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


class Builder:
    """The steps of a start, and of a stop."""

    def __init__(self, ports: Ports, config: Config, log: structlog.stdlib.BoundLogger, gate: Gate) -> None:
        self._ports = ports
        self._config = config
        self._log = log
        self._gate = gate
        self._files = cast(Files, ports.files)
        self._router = Mailbox("router", messages_max=DISK_MAILBOX_MESSAGES)
        self._cluster_id = ""

    async def open_directory(self, stack: AsyncExitStack) -> DataDir:
        """Lock the data directory and learn who it is."""
        config, rng = self._config, self._ports.rng
        if len(config.peers) > 1:
            raise ConfigError("--peers: this release runs one node; leave --peers out")
        new_id = f"{rng.getrandbits(128):032x}"
        directory: DataDir = await _on_disk(
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
        with trio.CancelScope(shield=True):
            async with open_flat_nursery() as nursery:
                async with open_flat_nursery() as doors:
                    node = await self.start(nursery, doors, directory, listeners)
                    task_status.started(node)
                    await stopping.wait()
                    doors.cancel_scope.cancel()
                await self.stop(directory)
                nursery.cancel_scope.cancel()

    async def start(
        self, nursery: trio.Nursery, doors: trio.Nursery, directory: DataDir, listeners: list[Listener]
    ) -> Node:
        """Bring everything up, bottom first; returns when every log is open."""
        ports, config = self._ports, self._config
        supervisor = Supervisor(nursery, self._log)
        disk = Mailbox("disk", messages_max=DISK_MAILBOX_MESSAGES)
        supervisor.start(disk, lambda box: DiskActor(box, ports.disk))
        janitor = Mailbox("janitor", messages_max=DISK_MAILBOX_MESSAGES)
        chores = Chores(Flush(), Checkpoint(), Retain())
        supervisor.start(janitor, lambda box: JanitorActor(box, chores, config.retention_check_interval_ms))
        store = EmbeddedStore(self._files, f"{config.data_dir}/metadata", DiskClient(disk))
        addresses = tuple(
            Address(asked.name, listener.host, listener.port)
            for asked, listener in zip(config.listen, listeners, strict=True)
        )
        services = self._services(nursery, supervisor, store, disk, addresses)
        server = Server(services)
        for listener, address in zip(listeners, config.listen, strict=True):
            doors.start_soon(server.serve, listener, address.name, doors)
        doors.start_soon(server.sweep)
        await store.open()
        self._cluster_id, epoch = await self._identify(store)
        await _on_disk(ports.disk, lambda: directory.take_clean(self._files))
        world = PartitionWorld(ports.clock, self._files, MemoryFiles(), disk, janitor, self._log)
        topics_directory = f"{config.data_dir}/topics"

        def on_change() -> None:
            services.groups.follow()
            services.delays.follow()

        setup = RouterSetup(
            world, supervisor, topics_directory, epoch, directory.clean, services.admin.settings_of, None, on_change
        )
        await self._sweep_leftovers(store, topics_directory)
        supervisor.start(self._router, lambda box: RouterActor(box, setup, services.routes))
        await self._first_look(store)
        nursery.start_soon(self._follow_topics, store)
        nursery.start_soon(self._tick, janitor)
        services.ready.set()
        return Node(config.node_id, self._cluster_id, addresses, services, server, supervisor, doors)

    def _services(
        self,
        nursery: trio.Nursery,
        supervisor: Supervisor,
        store: MetadataStore,
        disk: Mailbox,
        addresses: tuple[Address, ...],
    ) -> Services:
        """What the listeners ask, before anything of it runs."""
        ports, config = self._ports, self._config
        routes, alarms = Routes(config.node_id), Alarms()
        nursery.start_soon(alarms.run)
        admin = Admin(
            store=store, routes=routes, router=self._router, clock=ports.clock, rng=ports.rng, log=self._log,
            defaults=TopicDefaults(config.default_partitions, config.auto_create_topics, config.topic),
        )  # fmt: skip
        topics = GroupTopics(admin, routes, self._log, nursery.start_soon)
        delays = Delays(
            admin, supervisor, ports.clock, disk, alarms, routes, topics, self._log, nursery.start_soon, None
        )
        shared = CoordinatorWorld(
            ports.clock, ports.rng, disk, alarms, routes, self._log, topics, delays.wheel_now, config.assignors
        )
        groups = Groups(admin, supervisor, shared, None)
        return Services(
            ports.clock, routes, admin, self._gate, Buffers(config.requests_bytes_max), DiskClient(disk),
            config.node_id, lambda: self._cluster_id, trio.Event(), self._nodes(addresses), lambda: config.node_id,
            self._log, bytearray(SCRATCH_BYTES), config.connections_max, config.connections_idle_ms, config.data_dir,
            tuple(ConfigValue(*entry) for entry in config.entries()), groups, delays, topics,
        )  # fmt: skip

    async def _identify(self, store: MetadataStore) -> tuple[str, int]:
        """The cluster's id, minted at the very first start, and this leadership's epoch."""
        cluster, epoch = await store.get(CLUSTER), await store.get(EPOCH)
        next_epoch = 0 if epoch is None else cast(int, decode_value(epoch.value)) + 1
        cluster_id = f"{self._ports.rng.getrandbits(128):032x}" if cluster is None else str(decode_value(cluster.value))
        await store.txn([Put(CLUSTER, encode_value(cluster_id)), Put(EPOCH, encode_value(next_epoch))])
        return cluster_id, next_epoch

    async def _sweep_leftovers(self, store: MetadataStore, topics_directory: str) -> None:
        """Finish deletions that a crash cut short; report directories that no topic owns."""
        known = {}
        for held in await store.scan(TOPICS):
            topic = decode_topic(held.value)
            known.update({f"{topic.name}-{at}": topic.topic_id for at in range(topic.partitions)})
        strangers = await _on_disk(self._ports.disk, lambda: _sweep(self._files, topics_directory, known))
        for name in strangers:
            self._log.warning("directory_without_topic", directory=f"{topics_directory}/{name}")

    async def _first_look(self, store: MetadataStore) -> None:
        await self._look(store)
        await ask(self._router, lambda reply: AwaitOpen(reply=reply))

    async def _look(self, store: MetadataStore) -> None:
        held = await store.scan(TOPICS)
        await self._router.put(TopicsSeen(topics=tuple((decode_topic(v.value), v.version) for v in held)))

    async def _follow_topics(self, store: MetadataStore) -> None:
        async with store.watch(TOPICS) as changes:
            async for change in changes:
                if isinstance(change, Resync):
                    await self._look(store)
                else:
                    await self._router.put(_seen(change))

    async def _tick(self, janitor: Mailbox) -> None:
        while True:
            janitor.offer(Tick(now_ms=int(self._ports.clock.monotonic() * 1000)))
            await trio.sleep(TICK_MS / 1000)

    def _nodes(self, addresses: tuple[Address, ...]) -> Callable[[str], tuple[ClientAddress, ...]]:
        """A node alone, as the clients of each listener reach it."""
        reached = [*addresses, *self._config.advertise]
        told = {a.name: (ClientAddress(self._config.node_id, a.host, a.port),) for a in reached}
        return lambda listener: told.get(listener, (ClientAddress(self._config.node_id, "", 0),))

    async def stop(self, directory: DataDir) -> None:
        """Close every log, then say that the directory is clean."""
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True) as scope:
            try:
                await ask(self._router, lambda reply: CloseAll(reply=reply))
                await _on_disk(self._ports.disk, lambda: directory.mark_clean(self._files))
                self._log.info("node_stopped", clean=True)
            except Exception as error:  # the next start recovers; stopping must not fail for it
                self._log.error("node_stopped", clean=False, reason=str(error))
        if scope.cancelled_caught:
            self._log.error("node_stopped", clean=False, reason="closing the logs took too long")
        with trio.CancelScope(shield=True):
            await self._ports.disk.aclose()


def _seen(change: Changed) -> TopicSeen:
    record = None if change.value is None else decode_topic(change.value)
    return TopicSeen(name=change.key.removeprefix(TOPICS), record=record, version=change.version)


def _sweep(files: Files, topics_directory: str, known: dict[str, str]) -> list[str]:
    """Remove what a deletion left behind; the names of directories that belong to no topic."""
    files.make_dir(topics_directory)
    strangers = []
    for name in files.list(topics_directory):
        path = f"{topics_directory}/{name}"
        if name.endswith(".deleted"):
            files.remove_tree(path)
        elif name not in known:
            strangers.append(name)
        elif _topic_id(files, path) not in {known[name], None}:
            grave = f"{path}.deleted"
            files.rename(path, grave)
            files.sync_dir(topics_directory)
            files.remove_tree(grave)
    return strangers


def _topic_id(files: Files, path: str) -> str | None:
    """The topic id that a partition's directory was made for; None where that was not written whole."""
    try:
        found = TOPIC_ID_LINE.search(files.read(f"{path}/partition.metadata"))
    except FileNotFoundError:
        return None
    return None if found is None else found[1].decode()
