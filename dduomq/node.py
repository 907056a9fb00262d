"""A node: everything put together, and the only place where that is done.

`build(ports, config)` makes a node of any world; `open_node` embeds one in the caller's process;
`trio-run dduomq.node` runs one. Always true: a node that says `node_ready` serves; one that ends in good
order has closed every log and marked its directory clean; one that was killed finds out at its next start.
"""

import os
import re
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import attrs
import sniffio
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
from dduomq.actors.router import (
    AwaitOpen,
    CloseAll,
    RouterActor,
    RouterSetup,
    Routes,
    TopicSeen,
    TopicsSeen,
)
from dduomq.actors.supervisor import ActorStatus, Supervisor
from dduomq.cluster.image import CLUSTER, EPOCH, TOPICS, decode_topic, decode_value, encode_value
from dduomq.cluster.ports import Changed, MetadataStore, Put, Resync
from dduomq.config import Address, Config, from_values
from dduomq.errors import ConfigError, DduomqError, UsageError
from dduomq.listeners.admit import Gate
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.pipe import PipeEnd, open_pipe
from dduomq.listeners.serve import Server
from dduomq.listeners.services import Services
from dduomq.log.datadir import DataDir, open_data_dir
from dduomq.log.files import Files
from dduomq.log.memory import MemoryFiles
from dduomq.observe import make_log, silent_log
from dduomq.ports import DiskExecutor, Listener, Ports
from dduomq.stores.embedded import EmbeddedStore
from dduomq.stores.engines import parse_engine

if TYPE_CHECKING:
    from dduomq.client.client import Client

TICK_MS = 250
SCRATCH_BYTES = 256 * 1024
CLOSE_TIMEOUT_S = 60
TOPIC_ID_LINE = re.compile(rb"^topic_id: ([0-9a-f]{32})$", re.MULTILINE)  # a torn one must not match
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


@asynccontextmanager
async def build(
    ports: Ports,
    config: Config,
    *,
    log: structlog.stdlib.BoundLogger | None = None,
    gate: Gate | None = None,
) -> AsyncIterator[Node]:
    """Start a node; leaving the block stops it in good order.

    Raises `DataDirError`, `ListenError` and other `ConfigError`s when it can't start.
    """
    builder = _Builder(ports, config, log or silent_log(), gate or Gate())
    async with AsyncExitStack() as stack:
        directory = await builder.open_directory(stack)
        listeners = await builder.listen(stack)
        async with open_flat_nursery() as root:
            stopping = trio.Event()
            try:
                yield await _started(root.start(builder.run, directory, listeners, stopping))
            finally:
                stopping.set()


async def _started(start: Awaitable[Node]) -> Node:
    """A node that can't start for want of space, or a damaged metadata log, is a start-up error like the others."""
    try:
        return await start
    except DduomqError as error:
        raise (
            error if isinstance(error, ConfigError) else ConfigError(f"the node can't start: {error.message}")
        ) from error


class _Builder:
    """The steps of a start, and of a stop."""

    def __init__(self, ports: Ports, config: Config, log: structlog.stdlib.BoundLogger, gate: Gate) -> None:
        self._ports = ports
        self._config = config
        self._log = log
        self._gate = gate
        self._files = cast(Files, ports.files)
        self._router = Mailbox("router", messages_max=DISK_MAILBOX_MESSAGES)

    async def open_directory(self, stack: AsyncExitStack) -> DataDir:
        """Lock the data directory and learn who it is."""
        config, rng = self._config, self._ports.rng
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
                    for listener, address in zip(listeners, self._config.listen, strict=True):
                        doors.start_soon(node.server.serve, listener, address.name, doors)
                    doors.start_soon(node.server.sweep)
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
        disk_client = DiskClient(disk)
        store = EmbeddedStore(self._files, f"{config.data_dir}/metadata", disk_client)
        await store.open()
        cluster_id, epoch = await self._identify(store)
        if len(config.peers) > 1:
            raise ConfigError("--peers: this release runs one node; leave --peers out")
        if parse_engine(config.metadata).kind != "embedded":
            raise ConfigError("--metadata: this release runs one node, which keeps its metadata itself; leave it out")
        await _on_disk(ports.disk, lambda: directory.take_clean(self._files))
        world = PartitionWorld(ports.clock, self._files, MemoryFiles(), disk, janitor, self._log)
        routes = Routes()
        addresses = tuple(
            Address(asked.name, listener.host, listener.port)
            for asked, listener in zip(config.listen, listeners, strict=True)
        )
        admin = Admin(
            store=store, routes=routes, router=self._router, clock=ports.clock, rng=ports.rng, log=self._log,
            defaults=TopicDefaults(config.default_partitions, config.auto_create_topics, config.topic),
        )  # fmt: skip
        topics_directory = f"{config.data_dir}/topics"
        setup = RouterSetup(world, supervisor, topics_directory, epoch, directory.clean, admin.settings_of)
        await self._sweep_leftovers(store, topics_directory)
        supervisor.start(self._router, lambda box: RouterActor(box, setup, routes))
        await self._first_look(store)
        nursery.start_soon(self._follow_topics, store)
        nursery.start_soon(self._tick, janitor)
        alarms = Alarms()
        nursery.start_soon(alarms.run)
        topics = GroupTopics(admin, routes, self._log, nursery.start_soon)
        delays = Delays(admin, supervisor, ports.clock, disk, alarms, routes, topics, self._log, nursery.start_soon)
        shared = CoordinatorWorld(
            ports.clock, ports.rng, disk, alarms, routes, self._log, topics, delays.wheel_now, config.assignors
        )
        groups = Groups(admin, supervisor, shared)
        groups.start()
        delays.start()
        services = Services(
            ports.clock, routes, admin, self._gate, Buffers(config.requests_bytes_max), disk_client,
            config.node_id, cluster_id, epoch, self._advertised(addresses), self._log, bytearray(SCRATCH_BYTES),
            config.connections_max, config.connections_idle_ms, config.data_dir,
            tuple(ConfigValue(*entry) for entry in config.entries()), groups, delays, topics,
        )  # fmt: skip
        return Node(config.node_id, cluster_id, addresses, services, Server(services), supervisor, doors)

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

    def _advertised(self, addresses: tuple[Address, ...]) -> Callable[[str], tuple[str, int]]:
        told = {address.name: (address.host, address.port) for address in addresses}
        told |= {address.name: (address.host, address.port) for address in self._config.advertise}
        return lambda listener: told.get(listener, ("", 0))

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


# --- embedding --------------------------------------------------------------------------------------


@asynccontextmanager
async def open_node(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    listen: str | None = "127.0.0.1:0",
    log: structlog.stdlib.BoundLogger | None = None,
    **settings: object,
) -> AsyncIterator[Node]:
    """The real broker, in this process; under asyncio in a thread of its own.

    Without `data_dir` it lives in a temporary directory that goes with it. `listen=None` opens no port.
    Any configuration key can be given with underscores for dots: `default_partitions=1`,
    `topic={"durability": "pagecache"}`. Touches no signal handler and no global logging.
    Raises `ConfigError` when it can't start.
    """
    from dduomq.system import real_ports

    path = os.fspath(data_dir) if data_dir is not None else tempfile.mkdtemp(prefix="dduomq-")
    try:
        config = embedded_config(path, listen, settings)
        if sniffio.current_async_library() == "trio":
            async with build(real_ports(), config, log=log) as node:
                yield node
        else:
            async with _in_thread(config, log) as node:
                yield node
    finally:
        if data_dir is None:
            shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def _in_thread(config: Config, log: structlog.stdlib.BoundLogger | None) -> AsyncIterator[Node]:
    """A node with a trio of its own, for asyncio; it is reached through its listener."""
    import asyncio

    from dduomq.system import real_ports

    if not config.listen:
        raise UsageError("under asyncio an embedded node is reached through its port; leave listen= as it is")
    started: Future[tuple[Node, Callable[[], None]]] = Future()

    async def live() -> None:
        stopping, token = trio.Event(), trio.lowlevel.current_trio_token()
        try:
            async with build(real_ports(), config, log=log) as node:
                started.set_result((node, lambda: token.run_sync_soon(stopping.set)))
                await stopping.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=trio.run, args=(live,), name="dduomq-node")
    thread.start()
    try:
        node, stop = await asyncio.wrap_future(started)
        try:
            yield node
        finally:
            stop()
    finally:
        await asyncio.shield(asyncio.to_thread(thread.join))


def embedded_config(path: str, listen: str | None, settings: dict[str, object]) -> Config:
    """The configuration of an embedded node; raises `ConfigError` for keys there are not."""
    values: dict[str, str] = {"data": path, "listen": listen or ""}
    for name, value in settings.items():
        if name == "topic":
            if not isinstance(value, dict):
                raise UsageError("topic= takes a dict of topic settings, like {'durability': 'pagecache'}")
            values |= {f"topic.{key}": _text(inner) for key, inner in value.items()}
        else:
            values[name.replace("_", ".")] = _text(value)
    return from_values(values)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def main(args: Sequence[str]) -> None:
    """`trio-run dduomq.node`: run until cancelled."""
    from dduomq.system import real_ports

    config = Config.load(args, os.environ)
    log = make_log(config.log_level, config.log_format)
    async with build(real_ports(), config, log=log) as node:
        log.info(
            "node_ready",
            node_id=node.node_id,
            listen=[str(address) for address in node.addresses],
            data=config.data_dir,
            cluster_id=node.cluster_id,
        )
        await trio.sleep_forever()
