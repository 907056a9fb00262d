"""What every listener of a node works with."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from dduomq.actors.admin import Admin, ConfigValue
from dduomq.actors.delays import Delays
from dduomq.actors.disk import DiskClient
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.groups import Groups
from dduomq.actors.routes import Routes
from dduomq.listeners.admit import Gate
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.peer import PeerServer
from dduomq.ports import Clock

if TYPE_CHECKING:
    from dduomq.listeners.kafka.share_sessions import Member, ShareSession


@attrs.frozen
class ClientAddress:
    """Where clients reach a node."""

    node_id: int
    host: str
    port: int


@attrs.frozen
class Services:
    """`nodes(listener)` are those that are alive, with the addresses that clients of that listener are told to use;
    `controller()` is the number of the one that decides who leads, -1 while there is none; `settings` are the node's
    own, as an operator would write them. Clients are served from `ready` on, and wait until then; other nodes are not
    kept waiting, as without them this one may never be.
    """

    clock: Clock
    routes: Routes
    admin: Admin
    gate: Gate
    buffers: Buffers
    disk: DiskClient
    node_id: int
    cluster_id: Callable[[], str]
    ready: trio.Event
    nodes: Callable[[str], Sequence[ClientAddress]]
    controller: Callable[[], int]
    log: structlog.stdlib.BoundLogger
    scratch: bytearray
    connections_max: int
    connections_idle_ms: int
    data_directory: str
    settings: tuple[ConfigValue, ...]
    groups: Groups
    delays: Delays
    topics: GroupTopics
    peers: PeerServer | None = None  # None: no other nodes come to this one
    share_sessions: "dict[Member, ShareSession]" = attrs.field(factory=dict)  # of all connections

    def node(self, listener: str, node_id: int) -> ClientAddress | None:
        """Where clients of that listener reach a node; None if it is not alive."""
        return next((node for node in self.nodes(listener) if node.node_id == node_id), None)
