"""A node of a simulated cluster that has links, a door for its peers, and nothing else."""

from types import SimpleNamespace
from typing import cast

import structlog
import trio

from dduomq.actors.link import Links, LinkWorld
from dduomq.cluster.handshake import PeerBook
from dduomq.limits import CONNECTIONS_MAX, IDLE_TIMEOUT_MS, MIB
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.peer import PeerHandlers, PeerServer
from dduomq.listeners.serve import Server
from dduomq.listeners.services import Services
from dduomq.ports import Network, Rng

SCRATCH_BYTES = 64 * 1024


def door(peers: PeerServer) -> Server:
    """The real listener, for a node that serves its peers alone."""
    bare = SimpleNamespace(
        peers=peers, log=peers.log, buffers=Buffers(64 * MIB), scratch=bytearray(SCRATCH_BYTES),
        ready=trio.Event(), connections_max=CONNECTIONS_MAX, connections_idle_ms=IDLE_TIMEOUT_MS,
        node_id=peers.book.node_id,
    )  # fmt: skip
    return Server(cast(Services, bare))


class PeerHost:
    """`handlers` may be filled before `open`."""

    def __init__(
        self,
        book: PeerBook,
        network: Network,
        addresses: dict[int, tuple[str, int]],
        rng: Rng,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.book = book
        self.handlers = PeerHandlers()
        self.peers = PeerServer(book, self.handlers, log)
        self.links = Links(LinkWorld(network, rng, book, log), addresses)
        self._network = network

    async def listen(self, nursery: trio.Nursery) -> None:
        """Open the door."""
        listener = await self._network.listen(self.book.host, self.book.port)
        server = door(self.peers)
        nursery.start_soon(server.serve, listener, "default", nursery)
        nursery.start_soon(server.sweep)
