"""The metadata in ZooKeeper.

Always true: a key's version is its node's mzxid, the number of the transaction that wrote it last, which is never
used twice. ZooKeeper itself compares another number, which begins again when a node is made anew; so every
transaction that makes a node writes its directory's node, too, and every transaction checks the directories of all
its keys as it has read them: nothing was made there meanwhile.

A session is a connection of its own, so that a node may begin a new one while its watches go on.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)

from dduomq import limits
from dduomq.actors.nursery import open_flat_nursery
from dduomq.cluster.operations import check_operations
from dduomq.cluster.ports import (
    Changed,
    Check,
    MetadataConflict,
    MetadataUnavailable,
    Operation,
    Put,
    Resync,
    Session,
    SessionLost,
    Versioned,
)
from dduomq.errors import ConfigError, UsageError
from dduomq.stores.feed import Feed
from dduomq.stores.session import BEATS_PER_SESSION, RETRY_S, LocalSession
from dduomq.stores.zookeeper_client import Keeper, each
from dduomq.stores.zookeeper_names import Names
from dduomq.stores.zookeeper_watch import Follower

TRIES = 50  # of a transaction, while others make keys in the same directory
CROSSED = (BadVersionError, NodeExistsError, NoNodeError, RolledBackError, RuntimeInconsistency)  # others were quicker
MAIN_SESSION_S = 6.0  # of the connection for all but ephemeral keys; a dead server is noticed in two thirds of it


class ZooKeeperStore:
    """A `MetadataStore` in ZooKeeper; see `open_zookeeper`."""

    def __init__(self, hosts: str, main: Keeper, names: Names, session_timeout_ms: int) -> None:
        self._hosts = hosts
        self._main = main
        self._names = names
        self._timeout_s = session_timeout_ms / 1000
        self._session: _KeptSession | None = None
        self._making = trio.Lock()

    # --- reading ------------------------------------------------------------------------------------

    async def get(self, key: str) -> Versioned | None:
        path = self._names.path(key)
        _, found = await self._main.read(lambda zk: [zk.sync_async(self._names.keys), zk.get_async(path)])
        return None if isinstance(found, KazooException) else Versioned(key, found[0], found[1].mzxid)

    async def scan(self, prefix: str) -> list[Versioned]:
        """Sorted by key. Each key as it is now, not all of one moment."""
        names = self._names
        directory = names.fixed(prefix)
        if directory is None:
            _, listed = await self._main.read(lambda zk: [zk.sync_async(names.keys), zk.get_children_async(names.keys)])
            directories = names.matching(listed, prefix)
        else:
            await self._main.read(each("sync_async", [names.keys]))
            directories = [directory]
        lists = await self._main.read(each("get_children_async", directories))
        paths = [f"{at}/{name}" for at, found in zip(directories, lists, strict=True) for name in _listed(found)]
        keys = sorted(key for key in map(names.key, paths) if key.startswith(prefix))
        held: list[Versioned] = []
        for at in range(0, len(keys), limits.METADATA_SCAN_PAGE):
            page = keys[at : at + limits.METADATA_SCAN_PAGE]
            found = await self._main.read(each("get_async", [names.path(key) for key in page]))
            held += [
                Versioned(key, one[0], one[1].mzxid)
                for key, one in zip(page, found, strict=True)
                if not isinstance(one, KazooException)
            ]
        return held

    # --- writing ------------------------------------------------------------------------------------

    async def txn(self, operations: Sequence[Operation]) -> int:
        """See `MetadataStore.txn`."""
        check_operations(operations)
        version = await self._attempt(operations)
        if version is not None:
            return version
        async with self._making:  # this node's own transactions do not get into one another's way again
            for _ in range(TRIES):
                version = await self._attempt(operations)
                if version is not None:
                    return version
        raise MetadataUnavailable("other nodes make keys in the same directory all the time; try again")

    def _keeper(self, operations: Sequence[Operation]) -> Keeper:
        """Ephemeral keys belong to the session that writes them."""
        if not any(isinstance(item, Put) and item.is_ephemeral for item in operations):
            return self._main
        if self._session is None or not self._session.is_valid:
            raise SessionLost
        return self._session.keeper

    async def _attempt(self, operations: Sequence[Operation]) -> int | None:
        """The version, or None if something was made or changed between reading and writing."""
        keeper, names = self._keeper(operations), self._names
        keys = sorted({item.key for item in operations})
        directories = sorted({names.directory(key) for key in keys})
        paths = [*directories, *map(names.path, keys)]
        _, *found = await keeper.read(
            lambda zk: [zk.sync_async(names.keys), *(zk.exists_async(path) for path in paths)]
        )
        stats = dict(zip(paths, found, strict=True))
        missing = [directory for directory in directories if stats[directory] is None]
        if missing:
            await keeper.read(each("create_async", missing))
            return None
        for item in operations:
            if isinstance(item, Check) and _version(stats[names.path(item.key)]) != item.version:
                raise MetadataConflict(f"{item.key} has changed meanwhile")
        results = await keeper.commit(self._transaction(keeper, operations, directories, stats))
        refusals = [result for result in results if isinstance(result, Exception)]
        if not refusals:
            return int(results[-1].mzxid)
        for refusal in refusals:
            if not isinstance(refusal, CROSSED):
                raise MetadataUnavailable(f"ZooKeeper refuses: {type(refusal).__name__} {refusal}".rstrip())
        return None

    def _transaction(
        self, keeper: Keeper, operations: Sequence[Operation], directories: list[str], stats: dict[str, Any]
    ) -> Any:
        """All checks first: they are of what was read, not of what this transaction makes of it."""
        transaction, names = keeper.client.transaction(), self._names
        for directory in directories:
            transaction.check(directory, stats[directory].version)
        for item in operations:
            stat = stats[names.path(item.key)]
            if isinstance(item, Check) and stat is not None:
                transaction.check(names.path(item.key), stat.version)
        made: dict[str, None] = {}
        for item in operations:
            path = names.path(item.key)
            stat = stats[path]
            if isinstance(item, Put):
                owner = keeper.session_id if item.is_ephemeral else 0
                if stat is not None and stat.ephemeralOwner == owner:
                    transaction.set_data(path, item.value)
                    continue
                if stat is not None:
                    transaction.delete(path)
                transaction.create(path, item.value, ephemeral=item.is_ephemeral)
                made[names.directory(item.key)] = None
            elif not isinstance(item, Check) and stat is not None:
                transaction.delete(path)
        for directory in made:
            transaction.set_data(directory, b"")
        transaction.set_data(names.revision, b"")
        return transaction

    # --- the session --------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """ZooKeeper's own, over a connection of its own; the server bounds its time by its ticks."""
        if self._session is not None:
            raise UsageError("this node has a session already")
        keeper = Keeper(self._hosts, self._timeout_s)
        try:
            await keeper.open()
            sent = trio.current_time()
            await keeper.read(self._beat)
            session = _KeptSession(keeper, sent)
            keeper.on_lost = session.lose
            async with open_flat_nursery() as nursery:
                nursery.start_soon(self._keep_alive, session)
                self._session = session
                try:
                    yield session
                finally:
                    self._session = None
                    session.lose()
                    nursery.cancel_scope.cancel()
        finally:
            await keeper.close()

    def _beat(self, zk: KazooClient) -> list[Any]:
        return [zk.exists_async(self._names.root)]

    async def _keep_alive(self, session: "_KeptSession") -> None:
        """kazoo keeps the session up by itself; these beats are to know until when it is."""
        share_s = session.timeout_s / BEATS_PER_SESSION
        pause_s = share_s
        while session.is_valid:
            await trio.sleep(pause_s)
            sent = trio.current_time()
            try:
                await session.keeper.read(self._beat, share_s)
            except MetadataUnavailable:
                pause_s = RETRY_S
                continue
            pause_s = share_s
            if session.keeper.session_id != session.session_id:
                session.lose()
            elif not session.extend(sent + session.timeout_s):
                return

    # --- watching -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Changed | Resync]]:
        """See `MetadataStore.watch`. While ZooKeeper is out of reach it says nothing; then it is a `Resync`."""
        feed = Feed()
        async with open_flat_nursery() as nursery:
            follower = Follower(self._main, self._names, prefix, feed)
            nursery.start_soon(follower.run)
            yield feed
            follower.is_over = True
            nursery.cancel_scope.cancel()


class _KeptSession(LocalSession):
    __slots__ = ("keeper", "session_id")

    def __init__(self, keeper: Keeper, sent: float) -> None:
        super().__init__(sent, keeper.granted_s)
        self.keeper = keeper
        self.session_id = keeper.session_id


def _version(stat: Any) -> int:
    return 0 if stat is None else int(stat.mzxid)


def _listed(found: Any) -> list[str]:
    """The names in a directory; nothing of one that is not there."""
    return [] if isinstance(found, KazooException) else list(found)


@asynccontextmanager
async def open_zookeeper(hosts: str, name: str, session_timeout_ms: int) -> AsyncIterator[ZooKeeperStore]:
    """The store of cluster `name`; `hosts` are like 127.0.0.1:2181,127.0.0.1:2182.

    Raises `ConfigError` if none of them answers in time.
    """
    main, names = Keeper(hosts, MAIN_SESSION_S), Names(f"/dduomq/{name}")
    try:
        try:
            await main.open(limits.METADATA_START_TIMEOUT_MS / 1000)
            await main.read(each("create_async", ["/dduomq", names.root, names.keys, names.revision]))
        except MetadataUnavailable as error:
            raise ConfigError(f"{error.message}; start it, or mend the address") from None
        yield ZooKeeperStore(hosts, main, names, session_timeout_ms)
    finally:
        await main.close()
