"""The quorum's messages on their way: many in a frame, one in many frames.

Always true: what comes is from the node that it says it is from, and of this cluster; anything else ends the
connection, or is passed over where it may be honest.
"""

from collections.abc import Callable, Iterator, Sequence

from dduomq.actors.link import Links
from dduomq.cluster.ports import PeerUnavailable
from dduomq.errors import WireError
from dduomq.limits import LINK_PIECE_BYTES, MIB, RAFT_SNAPSHOT_BYTES_MAX
from dduomq.wire import raft
from dduomq.wire.peer_metadata import RaftMessages
from dduomq.wire.raft_messages import InstallSnapshot, Peer, RaftMessage

MESSAGE_BYTES_MAX = RAFT_SNAPSHOT_BYTES_MAX + MIB


def send_all(links: Links, cluster_id: str, messages: Sequence[RaftMessage]) -> list[Peer]:
    """Hand them to the links; members that a snapshot was for and did not go to."""
    by_node: dict[int, list[RaftMessage]] = {}
    for message in messages:
        by_node.setdefault(message.target.node, []).append(message)
    lost = []
    for node, theirs in by_node.items():
        if not _send(links, node, cluster_id, theirs):
            lost += [message.target for message in theirs if isinstance(message, InstallSnapshot)]
    return lost


def _send(links: Links, node: int, cluster_id: str, messages: Sequence[RaftMessage]) -> bool:
    try:
        link = links.link(node)
    except PeerUnavailable:
        return False
    if not link.is_up:
        return False
    return all(link.send(body, payload) for body, payload in _frames(cluster_id, map(raft.encode, messages)))


def _frames(cluster_id: str, encoded: Iterator[bytes]) -> Iterator[tuple[RaftMessages, list[bytes | memoryview]]]:
    batch: list[bytes | memoryview] = []
    size = 0
    for data in encoded:
        if batch and size + len(data) > LINK_PIECE_BYTES:
            yield RaftMessages(cluster_id, tuple(map(len, batch))), batch
            batch, size = [], 0
        if len(data) > LINK_PIECE_BYTES:
            view = memoryview(data)
            for at in range(0, len(data), LINK_PIECE_BYTES):
                yield RaftMessages(cluster_id, (), at, len(data)), [view[at : at + LINK_PIECE_BYTES]]
        else:
            batch.append(data)
            size += len(data)
    if batch:
        yield RaftMessages(cluster_id, tuple(map(len, batch))), batch


class RaftInbox:
    """Takes such frames apart again; messages go to `step`."""

    def __init__(self, cluster_id: Callable[[], str], step: Callable[[tuple[RaftMessage, ...]], None]) -> None:
        self._cluster_id = cluster_id
        self._step = step
        self._parts: dict[int, bytearray] = {}  # by node: the beginning of a large message

    def take(self, node: int, body: RaftMessages, payload: memoryview) -> None:
        """Raises `WireError`."""
        if not body.cluster_id or body.cluster_id != self._cluster_id():
            return  # this node has just left another state of things; the sender finds out by itself
        if body.total:
            whole = self._piece(node, body, payload)
            messages = [] if whole is None else [raft.decode(whole)]
        else:
            if sum(body.sizes) != len(payload) or any(size < 0 for size in body.sizes):
                raise WireError(f"messages of {sum(body.sizes)} bytes are announced, {len(payload)} have come")
            messages, at = [], 0
            for size in body.sizes:
                messages.append(raft.decode(payload[at : at + size]))
                at += size
        if any(message.source.node != node for message in messages):
            raise WireError(f"node {node} sends messages in the name of another one")
        if messages:
            self._step(tuple(messages))

    def _piece(self, node: int, body: RaftMessages, payload: memoryview) -> bytearray | None:
        """The whole message with its last piece."""
        if not 0 <= body.at <= body.at + len(payload) <= body.total <= MESSAGE_BYTES_MAX:
            raise WireError(f"{len(payload)} bytes at {body.at} are no part of a message of {body.total}")
        if body.at == 0:
            self._parts[node] = bytearray()
        held = self._parts.get(node)
        if held is None or len(held) != body.at:
            self._parts.pop(node, None)  # one before it was dropped: the whole is sent again
            return None
        held += payload
        return self._parts.pop(node) if len(held) == body.total else None
