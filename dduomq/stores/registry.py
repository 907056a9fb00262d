"""Registries that need no service of their own: the metadata themselves, a fixed list, a lease in an engine.

Always true: a registry tells where nodes are, to whoever looks for them; nothing is decided by what it says, and
a registry that is out of reach stops nobody.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import trio
from cbor2 import CBORDecodeError

from dduomq.actors.nursery import open_flat_nursery
from dduomq.cluster.image import NODES, NodeRecord, decode_node, encode_node
from dduomq.cluster.ports import (
    Changed,
    MetadataConflict,
    MetadataStore,
    MetadataUnavailable,
    MetadataUnknown,
    Put,
    Resync,
)
from dduomq.errors import DduomqError
from dduomq.ports import Rng

RETRY_S = 1.0
REGISTRY = "/registry/"


class StaticRegistry:
    """What the configuration says: who is meant to be there."""

    def __init__(self, members: Sequence[NodeRecord]) -> None:
        self._members = sorted(members, key=lambda node: node.node_id)

    @asynccontextmanager
    async def register(self, me: NodeRecord) -> AsyncIterator[None]:
        """Nothing to do: it stands there already."""
        yield

    async def nodes(self) -> list[NodeRecord]:
        return list(self._members)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[list[NodeRecord]]]:
        """The list, once; it does not change."""
        news = News()
        news.put(self._members)
        yield news


class StoreRegistry:
    """The nodes as the cluster's metadata have them: each node writes its own record when it joins."""

    prefix = NODES

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._last: list[NodeRecord] = []

    @asynccontextmanager
    async def register(self, me: NodeRecord) -> AsyncIterator[None]:
        """Nothing to do: a node that is in the cluster is in its metadata."""
        yield

    async def nodes(self) -> list[NodeRecord]:
        try:
            self._last = read_nodes(item.value for item in await self._store.scan(self.prefix))
        except MetadataUnavailable:
            return self._last
        return self._last

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[list[NodeRecord]]]:
        """See `Registry.watch`."""
        news = News()
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self._follow, news)
            yield news
            nursery.cancel_scope.cancel()

    async def _follow(self, news: "News") -> None:
        held: dict[str, bytes] = {}
        async with self._store.watch(self.prefix) as changes:
            async for change in changes:
                if isinstance(change, Resync):
                    held = await self._scan()
                elif isinstance(change, Changed) and change.value is not None:
                    held[change.key] = change.value
                else:
                    held.pop(change.key, None)
                news.put(read_nodes(held.values()))

    async def _scan(self) -> dict[str, bytes]:
        while True:
            try:
                return {item.key: item.value for item in await self._store.scan(self.prefix)}
            except MetadataUnavailable:
                await trio.sleep(RETRY_S)


class LeasedRegistry(StoreRegistry):
    """Nodes below `/registry` of an engine, each for as long as its session lasts."""

    prefix = REGISTRY

    def __init__(self, store: MetadataStore, rng: Rng) -> None:
        super().__init__(store)
        self._rng = rng

    @asynccontextmanager
    async def register(self, me: NodeRecord) -> AsyncIterator[None]:
        """See `Registry.register`."""
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self._keep, me)
            yield
            nursery.cancel_scope.cancel()

    async def _keep(self, me: NodeRecord) -> None:
        """A new session whenever the last one is lost; not all nodes at the same moment."""
        put = Put(f"{self.prefix}{me.node_id}", encode_node(me), is_ephemeral=True)
        while True:
            try:
                async with self._store.session() as session:
                    await self._store.txn([put])
                    await session.wait_lost()
            except (MetadataUnavailable, MetadataUnknown, MetadataConflict):
                await trio.lowlevel.checkpoint()
            await trio.sleep(RETRY_S * self._rng.uniform(0.5, 1.5))


class News:
    """The newest list of nodes; whoever is slow misses those in between."""

    __slots__ = ("_news", "_told", "_wake")

    def __init__(self) -> None:
        self._news: list[NodeRecord] | None = None
        self._told: list[NodeRecord] | None = None
        self._wake = trio.Event()

    def put(self, nodes: Sequence[NodeRecord]) -> None:
        """A list that is the same as the last is no news."""
        self._news = list(nodes)
        self._wake.set()

    def __aiter__(self) -> "News":
        return self

    async def __anext__(self) -> list[NodeRecord]:
        await trio.lowlevel.checkpoint()
        while self._news is None or self._news == self._told:
            self._wake = trio.Event()
            await self._wake.wait()
        self._told = self._news
        return list(self._told)


def read_nodes(values: Iterable[bytes]) -> list[NodeRecord]:
    """The records, by number; one that this release can't read is left out."""
    found = {}
    for value in values:
        try:
            node = decode_node(value)
        except (DduomqError, CBORDecodeError, ValueError, TypeError):
            continue
        found[node.node_id] = node
    return [found[number] for number in sorted(found)]
