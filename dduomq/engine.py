"""Where a cluster's node has its metadata from: a quorum of the nodes themselves, or an engine that stands elsewhere.

Always true: what a node keeps of its engine is read before other nodes are let in; a data directory belongs to one
cluster for ever.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, cast

import attrs
import structlog
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.link import Links
from dduomq.actors.quorum import QuorumWorld
from dduomq.actors.quorum_messages import QuorumView
from dduomq.actors.supervisor import Supervisor
from dduomq.address import Address
from dduomq.cluster.formation import wanted_founders
from dduomq.cluster.handshake import PeerBook
from dduomq.cluster.image import CLUSTER, decode_value, encode_value
from dduomq.cluster.ports import Check, MetadataConflict, MetadataStore, Put
from dduomq.config import Config
from dduomq.errors import ConfigError
from dduomq.limits import QUORUM_NODES_ADVISED
from dduomq.listeners.peer import PeerHandlers, PeerServer
from dduomq.log.files import Files
from dduomq.ports import DiskExecutor, Job, Ports
from dduomq.stores.quorum import QuorumStore

ALONE = "metadata"  # of the data directory: where a node alone keeps its metadata
QUORUM = "quorum"  # of the data directory: where a cluster's own metadata are
CLUSTER_FILE = "cluster"  # of the data directory: the id of the cluster that it belongs to


@attrs.frozen
class Surroundings:
    """What a membership is made of. `directory_id`: of the data directory; `addresses`: where this node listens.

    `outside`: the engine that `--metadata` names; None where the nodes keep the metadata themselves.
    """

    ports: Ports
    config: Config
    log: structlog.stdlib.BoundLogger
    disk: Mailbox
    supervisor: Supervisor
    directory_id: str
    addresses: tuple[Address, ...]
    outside: MetadataStore | None = None


async def on_disk(disk: DiskExecutor, job: Job) -> Any:
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


class Engine(Protocol):
    """A metadata engine of a cluster."""

    store: MetadataStore

    async def prepare(self, peers: PeerServer) -> None:
        """Read what is kept here, before other nodes are let in. Raises errors that say what to do."""

    async def open(self, nursery: trio.Nursery) -> str:
        """Return when it can be used, with the cluster's id."""

    async def leave(self) -> None:
        """The node is about to stop: nobody is to wait for it."""

    @property
    def members(self) -> Collection[int]:
        """The numbers of the nodes that take part in it, alive or not."""

    async def forget(self, node_id: int) -> None:
        """A node takes part in it no more. Raises `InvalidChange` and what `MetadataStore.txn` raises."""


EngineMaker: TypeAlias = Callable[["Surroundings", PeerBook, PeerHandlers, Links], Engine]


class QuorumEngine:
    """The cluster's own metadata engine: this node is a member of its quorum, or learns from it."""

    def __init__(self, around: Surroundings, book: PeerBook, handlers: PeerHandlers, links: Links) -> None:
        ports, config = around.ports, around.config
        book.wanted = wanted_founders([peer.node_id for peer in config.peers])
        self._around = around
        self._links = links
        self._warn(len(book.wanted), len(config.peers))
        self._handlers = handlers
        self._book = book
        world = QuorumWorld(
            cast(Files, ports.files), f"{config.data_dir}/{QUORUM}", around.disk, ports.rng, book, links, QuorumView(),
            around.log,
        )  # fmt: skip
        self._quorum = QuorumStore(world, session_timeout_ms=config.session_timeout_ms)
        self.store: MetadataStore = self._quorum

    def _warn(self, voters: int, nodes: int) -> None:
        """Of what can be had, and is not what somebody wants."""
        log = self._around.log
        if voters % 2 == 0:
            log.warning(
                "even_number_of_voters", voters=voters,
                advice="no more nodes can be missed than with one voter less; of three nodes one can be missed",
            )  # fmt: skip
        if nodes > QUORUM_NODES_ADVISED:
            log.warning(
                "many_nodes", nodes=nodes,
                advice="beyond seven nodes the metadata are better kept by etcd or ZooKeeper: --metadata",
            )  # fmt: skip

    async def prepare(self, peers: PeerServer) -> None:
        ports, data = self._around.ports, self._around.config.data_dir
        files = cast(Files, ports.files)
        alone = f"{data}/{ALONE}"
        if await on_disk(ports.disk, lambda: files.exists(alone) and not files.exists(f"{data}/{QUORUM}")):
            raise ConfigError(
                f"the data directory {data} is that of a node that ran alone; start it without --peers, or give an "
                "empty one with --data"
            )
        self._around.supervisor.start(self._quorum.mailbox, self._quorum.actor)
        await self._quorum.open()
        self._quorum.serve(self._handlers)
        peers.on_peer = self._quorum.met

    async def open(self, nursery: trio.Nursery) -> str:
        nursery.start_soon(self._quorum.run)
        await self._quorum.formed()
        return self._book.cluster_id

    async def leave(self) -> None:
        await self._quorum.hand_over()

    @property
    def members(self) -> Collection[int]:
        return self._book.members.keys()

    async def forget(self, node_id: int) -> None:
        if node_id in self._book.members:
            await self._quorum.remove_member(node_id)


class OutsideEngine:
    """An engine that stands elsewhere. A data directory belongs to one cluster for ever, so it keeps that one's id."""

    def __init__(self, around: Surroundings, book: PeerBook, store: MetadataStore) -> None:
        self._around = around
        self._book = book
        self.store = store

    async def prepare(self, _peers: PeerServer) -> None:
        self._book.directory_id = self._around.directory_id

    async def open(self, _nursery: trio.Nursery) -> str:
        ports, path = self._around.ports, f"{self._around.config.data_dir}/{CLUSTER_FILE}"
        files = cast(Files, ports.files)
        found = await self._minted()
        kept = await on_disk(ports.disk, lambda: files.read(path).decode().strip() if files.exists(path) else "")
        if kept and kept != found:
            raise ConfigError(
                f"the data directory {self._around.config.data_dir} belongs to cluster {kept}, and --metadata leads to "
                f"cluster {found}: mend --metadata, or give another --data"
            )
        if not kept:
            await on_disk(ports.disk, lambda: files.replace(path, f"{found}\n".encode()))
        return found

    async def leave(self) -> None:
        """The engine goes on."""

    @property
    def members(self) -> Collection[int]:
        return ()

    async def forget(self, node_id: int) -> None:
        """It knows of nodes only what they say themselves."""

    async def _minted(self) -> str:
        """The cluster's id: the first node that comes mints it."""
        while True:
            held = await self.store.get(CLUSTER)
            if held is not None:
                return str(decode_value(held.value))
            cluster_id = f"{self._around.ports.rng.getrandbits(128):032x}"
            with suppress(MetadataConflict):
                await self.store.txn([Check(CLUSTER, 0), Put(CLUSTER, encode_value(cluster_id))])


def open_engine(around: Surroundings, book: PeerBook, handlers: PeerHandlers, links: Links) -> Engine:
    """The engine that `--metadata` names."""
    if around.outside is not None:
        return OutsideEngine(around, book, around.outside)
    return QuorumEngine(around, book, handlers, links)
