"""The simulated disk: it forgets what was not synced, tears writes, flips bits, fills up, and fails to sync.

What is modelled: a write is in the page cache until its file is synced; after a power loss each unsynced write
is there, gone, or there in part, whatever became of the others; a name that no sync of its directory has
written may be there or not. A failed sync leaves the pages marked clean: the cache shows what the disk may not
have, and the next sync does not write it either. A killed process loses nothing. Always true: what was synced
is there afterwards, but for bits that `flip` has turned.
"""

from collections.abc import Callable, Sequence
from random import Random

import attrs
import trio

from dduomq.errors import DiskFull, StorageError
from dduomq.log.files import Lease
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import OFFLINE
from dduomq.ports import Buffer, Job

LOST, TORN = 0.4, 0.6  # below the first a write is gone, below the second a part of it is there
SECTOR_BYTES = 512
LATENCY_S = (0.0001, 0.004)


@attrs.define
class Faults:
    """What may go wrong from now on; the default is a perfect disk. Syncs fail for logs, not for metadata."""

    sync_fails: float = 0.0
    is_full: bool = False
    slowness: float = 1.0


class Inode:
    """A file without its name: what programs see, what the disk has, and the writes between the two."""

    __slots__ = ("content", "durable", "pending")

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []  # (position, data), or (size, None) for a cut

    def sync(self) -> None:
        for position, data in self.pending:
            _apply(self.durable, position, data)
        self.pending.clear()

    def fail_sync(self, rng: Random) -> None:
        """Some pages were written, and none will be tried again."""
        for position, data in self.pending:
            if rng.random() < LOST:
                _apply(self.durable, position, data)
        self.pending.clear()

    def lose_power(self, rng: Random) -> None:
        """Each write that was not synced meets its own fate."""
        for position, data in self.pending:
            chance = rng.random()
            if chance < LOST:
                continue
            if data is not None and chance < TORN:
                data = _torn(position, data, rng)
            _apply(self.durable, position, data)
        self.pending.clear()
        self.content = bytearray(self.durable)


def _apply(content: bytearray, position: int, data: bytes | None) -> None:
    """One write, or, without data, one cut."""
    if len(content) < position:
        content.extend(bytes(position - len(content)))
    if data is None:
        del content[position:]
    else:
        content[position : position + len(data)] = data


def _torn(position: int, data: bytes, rng: Random) -> bytes:
    """The part of a write that reached the disk: it ends where a sector ends."""
    cut = position + rng.randrange(len(data) + 1)
    return data[: max(cut - cut % SECTOR_BYTES - position, 0)]


class Platter:
    """The disk itself, which outlives the nodes that use it. `files` is for the node that runs now."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.faults = Faults()
        self.names: dict[str, Inode] = {}
        self.failed_syncs = 0
        self.bugs = 0  # so many of the next syncs of logs meet a bug of ours: their actors crash and start again
        self.unmarked: set[str] = set()  # directories of logs whose failed sync no marker on the disk tells of yet
        self.files = SimFiles(self, {}, {"", "."})

    def kill(self) -> None:
        """The process dies, the page cache stays."""
        self.files.alive = False
        self.files = SimFiles(self, dict(self.files.inodes), set(self.files.directories))

    def flip(self, path: str, position: int, bit: int) -> None:
        """One bit is not what was written; for the time between two runs of the node."""
        inode = self.files.inodes[path]
        inode.durable[position] ^= 1 << bit
        inode.content[position] ^= 1 << bit

    def lose_power(self) -> None:
        """What was not synced is left to chance."""
        self.unmarked.clear()
        old = self.files
        old.alive = False
        paths = sorted({*self.names, *old.inodes})
        survivors: dict[str, Inode] = {}
        for path in paths:
            named, seen = self.names.get(path), old.inodes.get(path)
            inode = named if named is seen or self.rng.random() < 0.5 else seen
            if inode is not None:
                survivors[path] = inode
        for inode in dict.fromkeys(survivors.values()):
            inode.lose_power(self.rng)
        self.names = dict(survivors)
        self.files = SimFiles(self, survivors, set(old.directories))


class SimFiles(MemoryFiles):
    """The disk as one run of the node sees it; every call fails once that run has crashed."""

    def __init__(self, platter: Platter, inodes: dict[str, Inode], directories: set[str]) -> None:
        super().__init__()
        self._platter = platter
        self.inodes = inodes
        self.contents = {path: inode.content for path, inode in inodes.items()}
        self.directories = directories
        self.alive = True

    def _check(self) -> None:
        if not self.alive:
            raise StorageError("the machine has no power")

    def _inode(self, path: str) -> Inode:
        inode = self.inodes.get(path)
        if inode is None:
            inode = self.inodes[path] = Inode()
            self.contents[path] = inode.content
        return inode

    def write_at(self, path: str, buffers: Sequence[Buffer], position: int, *, reserve_to: int = 0) -> None:
        self._check()
        if self._platter.faults.is_full:
            raise DiskFull("no space is left on the simulated disk")
        data = b"".join(bytes(buffer) for buffer in buffers)
        self._inode(path).pending.append((position, data))
        super().write_at(path, [data], position)

    def sync(self, path: str) -> None:
        self._check()
        self._file(path)
        platter = self._platter
        if "/topics/" in path and platter.bugs:
            platter.bugs -= 1
            raise RuntimeError("a planted bug")
        if "/topics/" in path and platter.rng.random() < platter.faults.sync_fails:
            self.inodes[path].fail_sync(platter.rng)
            platter.failed_syncs += 1
            platter.unmarked.add(path.rpartition("/")[0])
            raise StorageError(f"syncing {path} failed: Input/output error")
        self.inodes[path].sync()

    def sync_dir(self, path: str) -> None:
        """The names in the directory are on the disk as they are now."""
        self._check()
        names = self._platter.names
        for held in [held for held in names if held.rpartition("/")[0] == path and held not in self.inodes]:
            del names[held]
        names.update({held: inode for held, inode in self.inodes.items() if held.rpartition("/")[0] == path})

    def make_dir(self, path: str) -> None:
        self._check()
        super().make_dir(path)

    def rename(self, old: str, new: str) -> None:
        self._check()
        super().rename(old, new)
        for held in [held for held in self.inodes if held == old or held.startswith(old + "/")]:
            self.inodes[new + held[len(old) :]] = self.inodes.pop(held)
        names = self._platter.names
        for held in [held for held in names if held.startswith(old + "/")]:
            names[new + held[len(old) :]] = names.pop(held)

    def remove(self, path: str) -> None:
        self._check()
        super().remove(path)
        self.inodes.pop(path, None)

    def remove_tree(self, path: str) -> None:
        self._check()
        super().remove_tree(path)
        for held in [held for held in self.inodes if held == path or held.startswith(path + "/")]:
            del self.inodes[held]

    def truncate(self, path: str, size: int) -> None:
        self._check()
        super().truncate(path, size)
        self.inodes[path].pending.append((size, None))

    def replace(self, path: str, data: bytes, *, sync: bool = True) -> None:
        """Always a new inode: readers see the old content or the new."""
        self._check()
        if self._platter.faults.is_full:
            raise DiskFull("no space is left on the simulated disk")
        inode = Inode()
        inode.content[:] = data
        inode.pending.append((0, data))
        if sync:
            inode.sync()
        self.inodes[path] = inode
        self.contents[path] = inode.content
        directory, _, name = path.rpartition("/")
        if sync:
            self.sync_dir(directory)
            if name == OFFLINE:
                self._platter.unmarked.discard(directory)

    def lease(self, path: str) -> Lease:
        self._check()
        return super().lease(path)


class SimDisk:
    """Disk threads in virtual time: jobs take a while, and one that the power went away from never ends well."""

    threads = 4

    def __init__(self, nursery: trio.Nursery, platter: Platter, rng: Random) -> None:
        self._nursery = nursery
        self._platter = platter
        self._rng = rng

    def submit(self, jobs: Sequence[Job], done: Callable[[list[object]], None]) -> None:
        self._nursery.start_soon(self._run, jobs, done)

    async def _run(self, jobs: Sequence[Job], done: Callable[[list[object]], None]) -> None:
        results: list[object] = []
        with trio.CancelScope(shield=True):  # threads can't be cancelled either
            for job in jobs:
                await self._take_time()
                try:
                    results.append(job())
                except Exception as error:  # handed to who asked, as the port says
                    results.append(error)
            await self._take_time()
        done(results)

    async def _take_time(self) -> None:
        await trio.sleep(self._rng.uniform(*LATENCY_S) * self._platter.faults.slowness)

    async def aclose(self) -> None:
        """Jobs end by themselves."""
