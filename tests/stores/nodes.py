"""The metadata engines, each as the conformance suite asks for it: stores of several nodes on one cluster.

A new engine joins the suite by a class here and a name in `ENGINES`; one with servers of its own that can be
killed joins the tests of faults by a name in `FALLIBLE`.
"""

from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from random import Random

import structlog

from dduomq.actors.actor import Mailbox
from dduomq.actors.disk import DiskActor, DiskClient
from dduomq.actors.nursery import open_flat_nursery
from dduomq.actors.supervisor import Supervisor
from dduomq.log.files import RealFiles
from dduomq.stores.embedded import EmbeddedStore
from dduomq.stores.etcd import open_etcd
from dduomq.stores.zookeeper import open_zookeeper
from dduomq.system import DiskThreads
from dduomq.testing.quorum_host import quorum_cluster
from dduomq.testing.store import MemoryEngine
from tests.stores.servers import EtcdServer, ZooKeeperServer

SESSION_MS = 1_000
_numbers = count()


class Embedded:
    """One node has it alone; whoever else opens it in the same test shares the store."""

    def __init__(self, directory):
        self.directory = str(Path(directory) / "metadata")
        self._store = None

    @asynccontextmanager
    async def open(self):
        if self._store is not None:
            yield self._store
            return
        disk = Mailbox("disk", messages_max=1_000)
        threads = DiskThreads(1)
        try:
            async with open_flat_nursery() as nursery:
                Supervisor(nursery, structlog.get_logger()).start(disk, lambda box: DiskActor(box, threads))
                store = EmbeddedStore(RealFiles(), self.directory, DiskClient(disk))
                await store.open()
                self._store = store
                yield store
                nursery.cancel_scope.cancel()
        finally:
            self._store = None
            await threads.aclose()


class Quorum:
    """Three nodes with a quorum of their own, on a simulated network and disks, in real time; their disks stay."""

    def __init__(self):
        self._platters = {}
        self._free = []
        self._cluster = None

    @asynccontextmanager
    async def open(self):
        if self._cluster is not None:
            yield self._free.pop(0)
            return
        async with quorum_cluster(0) as cluster:
            for node in (1, 2, 3):
                host = cluster.host(node, (1, 2, 3))
                host.platter = self._platters.setdefault(node, host.platter)
                await cluster.start(node)
            await cluster.formed()
            self._cluster = cluster
            self._free = [cluster.store(node) for node in (2, 3, 1, 2, 3, 1, 2, 3)]
            try:
                yield cluster.store(1)
            finally:
                self._cluster = None


class InMemory:
    """What other tests use in an engine's place: one engine, each that opens it is another node."""

    def __init__(self):
        self._engine = None
        self._opened = 0

    @asynccontextmanager
    async def open(self):
        self._opened += 1
        if self._engine is not None:
            yield self._engine.store(self._opened)
            return
        self._engine = engine = MemoryEngine(Random(1))
        async with open_flat_nursery() as nursery:
            nursery.start_soon(engine.run)
            yield engine.store(self._opened)
            nursery.cancel_scope.cancel()


class Remote:
    """An engine with servers; each test has a cluster's name of its own there."""

    def __init__(self, kind, server):
        self.kind = kind
        self.server = server
        self.name = f"test{next(_numbers)}"

    def open(self):
        return open_at(self.kind, self.server.address, self.name)


def open_at(kind, address, name):
    if kind == "zookeeper":
        return open_zookeeper(address, name, SESSION_MS)
    return open_etcd([f"http://{address}"], name, SESSION_MS)


ENGINES = ["embedded", "quorum", "memory", "etcd", "zookeeper"]
FALLIBLE = ["etcd", "zookeeper"]
SERVERS = {"etcd": EtcdServer, "zookeeper": ZooKeeperServer}


def make_engine(kind, directory, server):
    if kind in SERVERS:
        return Remote(kind, server(kind))
    return {"embedded": lambda: Embedded(directory), "quorum": Quorum, "memory": InMemory}[kind]()


@asynccontextmanager
async def stores(engine, number):
    """So many nodes' stores."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(engine.open()) for _ in range(number)]
