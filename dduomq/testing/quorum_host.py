"""A cluster of nodes that keep metadata and nothing else, with their disks and the network between them.

    async with quorum_cluster(3, seed=7) as cluster:
        await cluster.formed()
        await cluster.store(1).txn([Put("/a", b"1")])

Node n is machine "node-n" of `cluster.network`; `kill` and `start` end and begin its lives.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import structlog
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.disk import DiskActor
from dduomq.actors.quorum import QuorumWorld
from dduomq.actors.quorum_messages import QuorumView
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.formation import wanted_founders
from dduomq.cluster.handshake import PeerBook
from dduomq.errors import DduomqError
from dduomq.log.files import Files
from dduomq.stores.quorum import QuorumStore
from dduomq.testing.disk import Platter, SimDisk
from dduomq.testing.network import SimNetwork
from dduomq.testing.peers import PeerHost

PORT = 6086
SECRET = "a secret of the simulation"


class QuorumHost:
    """One node: its disk, and its lives one after the other. `store` is that of the present life, or the last."""

    def __init__(self, cluster: "QuorumCluster", node: int, peers: Sequence[int], machine: str, secret: str) -> None:
        self.node = node
        self.machine = machine
        self.peers = tuple(peers)
        self.secret = secret
        self.platter = Platter(Random(cluster.rng.random()))
        self.store: QuorumStore
        self.door: PeerHost
        self.error: DduomqError | None = None  # why it could not start, or go on
        self.scope: trio.CancelScope | None = None
        self._cluster = cluster

    @property
    def is_running(self) -> bool:
        return self.scope is not None

    async def live(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One life, as `node.build` would make it."""
        cluster = self._cluster
        rng = Random(cluster.rng.random())
        log = cluster.log.bind(at=self.node)
        book = PeerBook(
            node_id=self.node, directory_id="", secret=self.secret, rng=rng, host=self.machine, port=PORT,
            wanted=wanted_founders(self.peers),
        )  # fmt: skip
        addresses = {node: (f"node-{node}", PORT) for node in self.peers}
        self.door = PeerHost(book, cluster.network.at(self.machine), addresses, rng, log)
        disk = Mailbox("disk", messages_max=1_000_000)
        executor = SimDisk(cluster.nursery, self.platter, rng)
        files = cast(Files, self.platter.files)
        world = QuorumWorld(files, "data/quorum", disk, rng, book, self.door.links, QuorumView(), log)
        self.store = store = QuorumStore(world, session_timeout_ms=cluster.session_timeout_ms)
        self.door.peers.on_peer = store.met
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            supervisor = Supervisor(nursery, log)
            supervisor.start(disk, lambda box: DiskActor(box, executor))
            supervisor.start(store.mailbox, store.actor)
            try:
                await store.open()
            except DduomqError as error:
                self.error = error
                nursery.cancel_scope.cancel()
            else:
                store.serve(self.door.handlers)
                await self.door.listen(nursery)
                self.door.links.start(nursery.start_soon)
                nursery.start_soon(self._run, store)
            task_status.started()

    async def _run(self, store: QuorumStore) -> None:
        """What would end a node is noted; this one lives on, so that it can be asked."""
        try:
            await store.run()
        except DduomqError as error:
            self.error = error

    def kill(self, *, is_power_lost: bool = False) -> None:
        """All at once."""
        if self.scope is not None:
            self._cluster.network.crash_machine(self.machine)
            if is_power_lost:
                self.platter.lose_power()
            else:
                self.platter.kill()
            self.scope.cancel()
            self.scope = None


class QuorumCluster:
    """All nodes. `events` are the lines of their logs."""

    def __init__(self, nursery: trio.Nursery, seed: int, session_timeout_ms: int) -> None:
        self.nursery = nursery
        self.rng = Random(seed)
        self.network = SimNetwork(Random(self.rng.random()))
        self.session_timeout_ms = session_timeout_ms
        self.hosts: dict[int, QuorumHost] = {}
        self.events: list[dict[str, Any]] = []
        self.log = structlog.wrap_logger(
            structlog.ReturnLogger(), processors=[self._keep], wrapper_class=structlog.BoundLogger
        )

    def _keep(self, _logger: object, name: str, event: structlog.typing.EventDict) -> str:
        self.events.append({**event, "level": name, "time": trio.current_time()})
        raise structlog.DropEvent

    def host(self, node: int, peers: Sequence[int]) -> QuorumHost:
        """A node that has not been started yet."""
        self.hosts[node] = QuorumHost(self, node, peers, f"node-{node}", SECRET)
        return self.hosts[node]

    async def start(
        self, node: int, peers: Sequence[int] = (), *, machine: str = "", secret: str = SECRET
    ) -> QuorumHost:  # fmt: skip
        """Begin a life of that node, the first one on an empty disk."""
        host = self.hosts.get(node)
        if host is None or machine:
            host = QuorumHost(self, node, peers or (node,), machine or f"node-{node}", secret)
            self.hosts.setdefault(node, host)
        host.peers = tuple(peers) or host.peers
        host.error = None
        await self.nursery.start(host.live)
        return host

    def store(self, node: int) -> QuorumStore:
        return self.hosts[node].store

    async def formed(self, *nodes: int) -> None:
        """Wait until these have a cluster; all without any."""
        for node in nodes or tuple(self.hosts):
            await self.store(node).formed()

    def leader(self) -> int | None:
        """Who leads in the highest term, as far as that one knows."""
        leaders = [
            (host.store.status().term, node)
            for node, host in self.hosts.items()
            if host.is_running and host.store.is_leader
        ]
        return max(leaders)[1] if leaders else None

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]


@asynccontextmanager
async def quorum_cluster(
    count: int = 3, *, seed: int = 1, session_timeout_ms: int = 1_000
) -> AsyncIterator[QuorumCluster]:  # fmt: skip
    """`count` nodes that run, with one another as peers; without any, an empty place."""
    async with trio.open_nursery() as nursery:
        cluster = QuorumCluster(nursery, seed, session_timeout_ms)
        for node in range(1, count + 1):
            await cluster.start(node, range(1, count + 1))
        yield cluster
        for host in cluster.hosts.values():
            host.kill()
        nursery.cancel_scope.cancel()
