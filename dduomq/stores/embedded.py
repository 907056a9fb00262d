"""The metadata store of a single node: all keys in memory, a log of transactions on disk.

Always true: a transaction is on disk, synced, before its effect can be seen. The log is replaced by a
snapshot when it has grown past `COMPACT_BYTES`; a crash at any moment leaves one or the other. An ephemeral key
is on disk as one that is gone: no start ever finds it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar, cast

import trio

from dduomq.actors.disk import DiskClient
from dduomq.cluster.metadata import Entry, MetadataState, decode_all, encode
from dduomq.cluster.operations import check_operations
from dduomq.cluster.ports import (
    Changed,
    Del,
    MetadataUnavailable,
    Operation,
    Put,
    Resync,
    Session,
    SessionLost,
    Versioned,
)
from dduomq.errors import DduomqError, StorageError, UsageError
from dduomq.log.files import Files
from dduomq.stores.watchers import Watchers

COMPACT_BYTES = 4 * 1024 * 1024
T = TypeVar("T")


class EmbeddedStore:
    """A `MetadataStore` on this node's own disk."""

    def __init__(self, files: Files, directory: str, disk: DiskClient) -> None:
        self._files = files
        self._path = f"{directory}/metadata.log"
        self._directory = directory
        self._disk = disk
        self._state = MetadataState()
        self._end = 0
        self._lock = trio.Lock()
        self._broken: DduomqError | None = None
        self._watchers = Watchers()
        self._session: _Lasting | None = None
        self._ephemerals: dict[str, None] = {}  # their keys, in the order in which they were written

    async def open(self) -> None:
        """Read the log. Raises `CorruptMessage` or `UnsupportedVersion` with what to do."""
        entries, self._end = await self._run(self._load)
        for entry in entries:
            self._state.apply(entry)

    def _load(self) -> tuple[list[Entry], int]:
        self._files.make_dir(self._directory)
        if not self._files.exists(self._path):
            return [], 0
        data = self._files.read(self._path)
        entries, end = decode_all(data)
        if end < len(data):
            self._files.truncate(self._path, end)
            self._files.sync(self._path)
        return entries, end

    async def _run(self, job: Callable[[], T]) -> T:
        """A disk job's result, awaited to its end even when cancelled."""
        done = trio.Event()
        results: list[object] = []

        def finished(result: object) -> None:
            results.append(result)
            done.set()

        self._disk.submit(job, finished)
        with trio.CancelScope(shield=True):
            await done.wait()
        if isinstance(results[0], BaseException):
            raise results[0]
        return cast(T, results[0])

    async def get(self, key: str) -> Versioned | None:
        return self._state.get(key)

    async def scan(self, prefix: str) -> list[Versioned]:
        return self._state.scan(prefix)

    async def txn(self, operations: Sequence[Operation]) -> int:
        """See `MetadataStore.txn`. After a failed write nothing more is accepted until a restart."""
        check_operations(operations)
        async with self._lock:
            if self._session is None and any(isinstance(item, Put) and item.is_ephemeral for item in operations):
                raise SessionLost
            if self._broken is not None:
                raise MetadataUnavailable(
                    f"the metadata log can't be written: {self._broken.message}; restart the node"
                )
            entry = self._state.plan(operations)
            data = encode(_lasting(entry))
            try:
                await self._run(lambda: self._append(data))
            except StorageError as error:
                self._broken = error
                raise
            self._end += len(data)
            self._apply(entry)
            if self._end > COMPACT_BYTES:
                await self._compact()
            return entry.revision

    def _apply(self, entry: Entry) -> None:
        for write in entry.writes:
            self._ephemerals.pop(write.key, None)
            if isinstance(write, Put) and write.is_ephemeral:
                self._ephemerals[write.key] = None
        self._watchers.tell(self._state.apply(entry))

    def _append(self, data: bytes) -> None:
        self._files.write_at(self._path, [data], self._end)
        self._files.sync(self._path)
        if self._end == 0:
            self._files.sync_dir(self._directory)

    async def _compact(self) -> None:
        whole = self._state.snapshot()
        lasting = tuple(write for write in whole.writes if write.key not in self._ephemerals)
        data = encode(Entry(whole.revision, lasting))
        await self._run(lambda: self._files.replace(self._path, data))
        self._end = len(data)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """The store lives as long as its node, so nobody but the node ends its session."""
        if self._session is not None:
            raise UsageError("this node has a session already")
        self._session = session = _Lasting()
        try:
            yield session
        finally:
            session.end()
            with trio.CancelScope(shield=True):
                async with self._lock:  # none is being written any more
                    self._session = None
                    gone = tuple(Del(key) for key in self._ephemerals)
                    if gone:
                        self._apply(Entry(self._state.revision + 1, gone))

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[Changed | Resync]]:
        """See `MetadataStore.watch`."""
        return self._watchers.watch(prefix)


class _Lasting:
    """A session that nobody can take away, and that is over with its node."""

    __slots__ = ("_ended", "timeout_s")

    def __init__(self) -> None:
        self.timeout_s = 0.0
        self._ended = trio.Event()

    @property
    def is_valid(self) -> bool:
        return not self._ended.is_set()

    def end(self) -> None:
        self._ended.set()

    async def wait_lost(self) -> None:
        await self._ended.wait()


def _lasting(entry: Entry) -> Entry:
    """What of an entry is written down: at the next start no ephemeral key is there."""
    writes = tuple(Del(item.key) if isinstance(item, Put) and item.is_ephemeral else item for item in entry.writes)
    return Entry(entry.revision, writes)
