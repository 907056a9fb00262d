"""What every listener of a node works with."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import structlog

from dduomq.actors.admin import Admin, ConfigValue
from dduomq.actors.delays import Delays
from dduomq.actors.disk import DiskClient
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.groups import Groups
from dduomq.actors.router import Routes
from dduomq.listeners.admit import Gate
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.peer import PeerServer
from dduomq.ports import Clock

if TYPE_CHECKING:
    from dduomq.listeners.kafka.share_sessions import Member, ShareSession


@attrs.frozen
class Services:
    """`advertised(listener)` is the (host, port) that clients of that listener are told to use;
    `settings` are the node's own, as an operator would write them.
    """

    clock: Clock
    routes: Routes
    admin: Admin
    gate: Gate
    buffers: Buffers
    disk: DiskClient
    node_id: int
    cluster_id: str
    leader_epoch: int
    advertised: Callable[[str], tuple[str, int]]
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
