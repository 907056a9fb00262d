"""What the broker asks of a metadata engine; one conformance suite runs against every one.

Always true: keys are '/'-separated text, values bytes; each key has a version that grows with every write of
it. A transaction is applied whole or not at all.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import attrs

from dduomq.cluster.image import NodeRecord
from dduomq.ports import Buffer
from dduomq.wire.cluster_errors import MetadataConflict as MetadataConflict
from dduomq.wire.cluster_errors import MetadataUnavailable as MetadataUnavailable
from dduomq.wire.cluster_errors import MetadataUnknown as MetadataUnknown
from dduomq.wire.cluster_errors import PeerNotReached as PeerNotReached
from dduomq.wire.cluster_errors import PeerUnavailable as PeerUnavailable
from dduomq.wire.cluster_errors import SessionLost as SessionLost


@attrs.frozen
class Put:
    """`is_ephemeral`: the key goes when this node's session ends; raises `SessionLost` without one."""

    key: str
    value: bytes
    is_ephemeral: bool = False


@attrs.frozen
class Del:
    key: str


@attrs.frozen
class Check:
    """The transaction holds only if `key` is at `version`; 0 means it must not exist."""

    key: str
    version: int


Operation: TypeAlias = Put | Del | Check


@attrs.frozen
class Versioned:
    key: str
    value: bytes
    version: int


@attrs.frozen
class Changed:
    """One key's newest state. `value` None: it is gone."""

    key: str
    value: bytes | None
    version: int


@attrs.frozen
class Resync:
    """The watcher fell behind, or has just begun: scan again, then go on with what follows."""


class Session(Protocol):
    """That a node is known to be alive. It is kept up in the background, and gone for good when it is lost."""

    @property
    def is_valid(self) -> bool:
        """By this node's own clock, counted from when the last beat that was answered had been sent.

        It may come back without anybody being told, as long as the session is not lost.
        """

    @property
    def timeout_s(self) -> float:
        """So long it outlasts its node, about: what the engine has granted, which may be more than was asked for."""

    async def wait_lost(self) -> None:
        """Returns when the engine has ended it, or when by this node's own clock it may have."""


class MetadataStore(Protocol):
    """Consistent. Every method may raise `MetadataUnavailable`, `txn` also Conflict and Unknown."""

    async def get(self, key: str) -> Versioned | None: ...

    async def scan(self, prefix: str) -> list[Versioned]:
        """By key. Each is as it is now; only some engines show all of one moment."""

    async def txn(self, operations: Sequence[Operation]) -> int:
        """Apply all of it, durably; the version that every written key now has."""

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[Changed | Resync]]:
        """Changes in the order of each key, newest state only; begins with `Resync`."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Begin this node's session, and end it, with all its ephemeral keys, at the end of the block. One at a time.

        Raises `MetadataUnavailable`.
        """


class Registry(Protocol):
    """Who is there, and where: for whoever looks for the nodes from outside. Nothing is ever decided by it.

    It may be late. While it is out of reach the last that was heard holds; none of it raises for that.
    """

    def register(self, me: NodeRecord) -> AbstractAsyncContextManager[None]:
        """Keep `me` in it until the end of the block, as soon and as far as that can be done."""

    async def nodes(self) -> list[NodeRecord]:
        """By their numbers."""

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[list[NodeRecord]]]:
        """All nodes, as they are and whenever they have changed."""


class PeerLink(Protocol):
    """The way to one other node. Bodies are values of `dduomq.wire.peer`."""

    async def request(
        self, body: object, payload: Sequence[Buffer] = (), *, timeout_s: float
    ) -> tuple[Any, memoryview]:
        """The answer and its payload. Raises the error that the other node gave, or `PeerUnavailable`.

        `PeerNotReached` when nothing was sent.
        """

    def send(self, body: object, payload: Sequence[Buffer] = ()) -> bool:
        """One way, without an answer; False if it was dropped, as the link is down or has too much to carry."""


class PeerLinks(Protocol):
    def link(self, node_id: int) -> PeerLink:
        """Raises `PeerNotReached` for a node that nobody knows."""
