"""The metadata store of a single node: all keys in memory, a log of transactions on disk.

Always true: a transaction is on disk, synced, before its effect can be seen. The log is replaced by a
snapshot when it has grown past `COMPACT_BYTES`; a crash at any moment leaves one or the other.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import trio

from dduomq.actors.disk import DiskClient
from dduomq.cluster.metadata import Entry, MetadataState, decode_all, encode
from dduomq.cluster.ports import Changed, MetadataUnavailable, Operation, Resync, Session, Versioned
from dduomq.errors import DduomqError, StorageError
from dduomq.log.files import Files

COMPACT_BYTES = 4 * 1024 * 1024
WATCH_BACKLOG = 1_024
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
        self._watchers: list[tuple[str, trio.MemorySendChannel[Changed | Resync]]] = []

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
        async with self._lock:
            if self._broken is not None:
                raise MetadataUnavailable(
                    f"the metadata log can't be written: {self._broken.message}; restart the node"
                )
            entry = self._state.plan(operations)
            data = encode(entry)
            try:
                await self._run(lambda: self._append(data))
            except StorageError as error:
                self._broken = error
                raise
            self._end += len(data)
            for change in self._state.apply(entry):
                self._tell(change)
            if self._end > COMPACT_BYTES:
                await self._compact()
            return entry.revision

    def _append(self, data: bytes) -> None:
        self._files.write_at(self._path, [data], self._end)
        self._files.sync(self._path)
        if self._end == 0:
            self._files.sync_dir(self._directory)

    async def _compact(self) -> None:
        data = encode(self._state.snapshot())
        await self._run(lambda: self._files.replace(self._path, data))
        self._end = len(data)

    def _tell(self, change: Changed) -> None:
        for prefix, channel in self._watchers:
            if change.key.startswith(prefix):
                try:
                    channel.send_nowait(change)
                except trio.WouldBlock:  # it scans again when it comes to the marker
                    continue

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """The store lives as long as its node, so the session does, too."""
        yield _Lasting()

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Changed | Resync]]:
        send, receive = trio.open_memory_channel[Changed | Resync](WATCH_BACKLOG)
        send.send_nowait(Resync())
        entry = (prefix, send)
        self._watchers.append(entry)
        try:
            yield _with_resync(receive)
        finally:
            self._watchers.remove(entry)
            send.close()
            receive.close()


class _Lasting:
    """A session that nobody can take away."""

    is_valid = True

    async def wait_lost(self) -> None:
        await trio.sleep_forever()


async def _with_resync(
    receive: trio.MemoryReceiveChannel[Changed | Resync],
) -> AsyncIterator[Changed | Resync]:
    """The channel's changes; a full channel may have lost some, so a `Resync` follows."""
    while True:
        was_full = receive.statistics().current_buffer_used >= WATCH_BACKLOG
        try:
            change = await receive.receive()
        except trio.EndOfChannel:
            return
        yield Resync() if was_full else change
