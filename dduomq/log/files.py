"""The one door to the disk.

Everything that layers 0 to 2 do with a disk they do through a `Files`: `RealFiles` here, `MemoryFiles` beside
it, a faulty one in the simulator. Always true: descriptors come from one LRU, so ten thousand quiet logs hold
none; a failed write is cut back to where it began; every error is `DiskFull`, `StorageError` or, for a file
that is not there, `FileNotFoundError`. Safe to call from several threads.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

from dduomq.errors import DataDirError, DiskFull, StorageError
from dduomq.limits import OPEN_FILES_MAX
from dduomq.ports import Buffer

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
BUFFERS_PER_WRITE_MAX = 1024  # IOV_MAX
WRITE_SLICE_BYTES = 32 * 1024
PROBE_STEP_BYTES = 64 * 1024
PAGE_BYTES = 4096  # the smallest there are: what is in one of them is in memory together
_KEEP_SIZE = 1
_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class NotResident(Exception):
    """What is to be read is not in the page cache, or it is more than may be read at once."""


class Lease(Protocol):
    """A file kept open while somebody reads it; also a `dduomq.ports.FileRange`."""

    def fileno(self) -> int:
        """The descriptor, -1 where there is none."""

    def read(self, position: int, size: int) -> bytes: ...

    def is_resident(self, position: int, size: int) -> bool:
        """Whether the range can be read without the disk; True where that can't be known."""

    def close(self) -> None: ...


class Files(Protocol):
    """What a disk can do for us. Paths are text with '/'."""

    def write_at(self, path: str, buffers: Sequence[Buffer], position: int, *, reserve_to: int = 0) -> None:
        """Write all of `buffers` at `position`, making the file; reserve space up to `reserve_to` first."""

    def sync(self, path: str) -> None:
        """fdatasync; raises `StorageError`."""

    def sync_dir(self, path: str) -> None: ...

    def read_at(self, path: str, position: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end of the file."""

    def read_into(self, path: str, position: int, view: memoryview) -> int:
        """Fill `view` with what lies at `position`; how many bytes, fewer at the end of the file."""

    def hot(self, bytes_max: int) -> "Files | None":
        """The same files for reading no more than `bytes_max`, and without waiting for the disk.

        `read_at` and `read_into` then raise `NotResident` instead. None where that can't be had.
        """

    def calm(self) -> "Files":
        """The same files for reading what is asked for and no more, where the kernel would read far ahead.

        It may be set to many megabytes, for which every sync has to wait.
        """

    def read(self, path: str) -> bytes: ...

    def size(self, path: str) -> int: ...

    def exists(self, path: str) -> bool: ...

    def list(self, path: str) -> "list[str]":
        """Names in a directory, sorted."""

    def make_dir(self, path: str) -> None:
        """Make a directory and its parents, and sync the parent."""

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is fine."""

    def remove_tree(self, path: str) -> None: ...

    def truncate(self, path: str, size: int) -> None: ...

    def replace(self, path: str, data: bytes, *, sync: bool = True) -> None:
        """Replace a small file whole: readers see the old or the new, never a mixture."""

    def lease(self, path: str) -> Lease:
        """Raises `FileNotFoundError`."""

    def forget(self, path: str) -> None:
        """Close the cached descriptor of `path`, if nobody uses it."""

    def free_bytes(self, path: str) -> int: ...

    def lock(self, path: str) -> object:
        """Lock a file for this process; the value has `close()`. Raises `DataDirError` when it is held."""


class _Open:
    """A descriptor in the LRU: closed when it has left the LRU and the last user is done."""

    __slots__ = ("descriptor", "evicted", "users")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 0
        self.evicted = False


class _RealLease:
    __slots__ = ("_files", "_open")

    def __init__(self, files: "RealFiles", opened: _Open) -> None:
        self._files = files
        self._open: _Open | None = opened

    def fileno(self) -> int:
        return -1 if self._open is None else self._open.descriptor

    def read(self, position: int, size: int) -> bytes:
        return os.pread(self.fileno(), size, position)

    def is_resident(self, position: int, size: int) -> bool:
        if not _RWF_NOWAIT:
            return True
        byte = bytearray(1)
        last = position + size - 1
        try:
            for at in (*range(position, last - last % PAGE_BYTES, PROBE_STEP_BYTES), last):
                os.preadv(self.fileno(), [byte], at, _RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a file system that can't tell
            return True
        return True

    def close(self) -> None:
        if self._open is not None:
            self._files.release(self._open)
            self._open = None


class RealFiles:
    """Files on a real file system."""

    def __init__(self, open_max: int = OPEN_FILES_MAX) -> None:
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._open_max = open_max
        self._lock = threading.Lock()

    # --- descriptors --------------------------------------------------------------------------------

    def _acquire(self, path: str, *, create: bool) -> _Open:
        with self._lock:
            opened = self._open.get(path)
            if opened is None:
                flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
                opened = _Open(os.open(path, flags, 0o640))
                self._open[path] = opened
                self._evict()
            else:
                self._open.move_to_end(path)
            opened.users += 1
            return opened

    def _evict(self) -> None:
        while len(self._open) > self._open_max:
            _, oldest = self._open.popitem(last=False)
            self._drop(oldest)

    def _drop(self, opened: _Open) -> None:
        opened.evicted = True
        if not opened.users:
            os.close(opened.descriptor)

    def release(self, opened: _Open) -> None:
        """Give a descriptor back that `_acquire` gave."""
        with self._lock:
            opened.users -= 1
            if opened.evicted and not opened.users:
                os.close(opened.descriptor)

    @contextmanager
    def using(self, path: str, *, create: bool = False) -> Iterator[int]:
        """The file's descriptor, for the length of the block."""
        opened = self._acquire(path, create=create)
        try:
            yield opened.descriptor
        finally:
            self.release(opened)

    def forget(self, path: str) -> None:
        with self._lock:
            opened = self._open.pop(path, None)
            if opened is not None:
                self._drop(opened)

    def lease(self, path: str) -> Lease:
        return _RealLease(self, self._acquire(path, create=False))

    # --- files --------------------------------------------------------------------------------------

    def write_at(self, path: str, buffers: Sequence[Buffer], position: int, *, reserve_to: int = 0) -> None:
        try:
            with self.using(path, create=True) as descriptor:
                if reserve_to > position:
                    _reserve(descriptor, position, reserve_to - position)
                try:
                    _write_all(descriptor, buffers, position)
                except OSError:
                    _cut_back(descriptor, position)
                    raise
        except OSError as error:
            raise _translated(error, path) from error

    def sync(self, path: str) -> None:
        try:
            with self.using(path) as descriptor:
                os.fdatasync(descriptor)
        except OSError as error:
            raise StorageError(f"syncing {path} failed: {error.strerror}") from error

    def sync_dir(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"syncing directory {path} failed: {error.strerror}") from error

    def read_at(self, path: str, position: int, size: int) -> bytes:
        with self.using(path) as descriptor:
            try:
                return os.pread(descriptor, size, position)
            except OSError as error:
                raise StorageError(f"reading {path} failed: {error.strerror}") from error

    def read_into(self, path: str, position: int, view: memoryview) -> int:
        with self.using(path) as descriptor:
            try:
                return os.preadv(descriptor, [view], position) if len(view) else 0
            except OSError as error:
                raise StorageError(f"reading {path} failed: {error.strerror}") from error

    def hot(self, bytes_max: int) -> Files | None:
        return cast(Files, _HotFiles(self, bytes_max)) if _RWF_NOWAIT else None

    def calm(self) -> Files:
        return cast(Files, _CalmFiles()) if hasattr(os, "posix_fadvise") else self

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list(self, path: str) -> "list[str]":
        return sorted(os.listdir(path))

    def make_dir(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        try:
            if not os.path.isdir(parent):
                self.make_dir(parent)
            os.makedirs(path, mode=0o750, exist_ok=True)
        except OSError as error:
            raise _translated(error, path) from error
        self.sync_dir(parent)

    def rename(self, old: str, new: str) -> None:
        self._forget_below(old)
        try:
            os.rename(old, new)
        except OSError as error:
            raise _translated(error, old) from error

    def _forget_below(self, path: str) -> None:
        with self._lock:
            for held in [held for held in self._open if held == path or held.startswith(path + "/")]:
                self._drop(self._open.pop(held))

    def remove(self, path: str) -> None:
        self.forget(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _translated(error, path) from error

    def remove_tree(self, path: str) -> None:
        self._forget_below(path)
        shutil.rmtree(path, ignore_errors=True)

    def truncate(self, path: str, size: int) -> None:
        try:
            with self.using(path) as descriptor:
                os.ftruncate(descriptor, size)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _translated(error, path) from error

    def replace(self, path: str, data: bytes, *, sync: bool = True) -> None:
        temporary = path + ".tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise _translated(error, path) from error
        self.forget(path)
        if sync:
            self.sync_dir(os.path.dirname(path) or ".")

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def lock(self, path: str) -> object:
        file = open(path, "a+b")  # noqa: SIM115  # held open as long as the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise DataDirError(f"{os.path.dirname(path)} is in use by another running node") from None
        return file


def _translated(error: OSError, path: str) -> Exception:
    if error.errno in FULL:
        return DiskFull(f"no space is left for {path}; free some, then send again")
    if isinstance(error, FileNotFoundError):
        return error
    return StorageError(f"{path}: {error.strerror}")


def _write_all(descriptor: int, buffers: Sequence[Buffer], position: int) -> None:
    """Slice by slice: a kernel that does not preempt itself lets nobody else run while a write copies."""
    views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    while views:
        room = WRITE_SLICE_BYTES - position % WRITE_SLICE_BYTES
        count = 0
        while count < min(len(views), BUFFERS_PER_WRITE_MAX) and room > 0:
            room -= len(views[count])
            count += 1
        group = views[:count]
        if room < 0:
            group[-1] = group[-1][:room]
        written = os.pwritev(descriptor, group, position)
        position += written
        while views and written >= len(views[0]):
            written -= len(views[0])
            views.pop(0)
        if written:
            views[0] = views[0][written:]


def _cut_back(descriptor: int, position: int) -> None:
    """Best effort: what a failed write left is beyond the end that we remember anyway."""
    try:
        if os.fstat(descriptor).st_size > position:
            os.ftruncate(descriptor, position)
    except OSError:
        return


class _CalmFiles:
    """Reads by descriptors of its own: that there is no read-ahead holds for all who read by the same one."""

    def read_at(self, path: str, position: int, size: int) -> bytes:
        data = bytearray(size)
        return bytes(data[: self.read_into(path, position, memoryview(data))])

    def read_into(self, path: str, position: int, view: memoryview) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                return os.preadv(descriptor, [view], position) if len(view) else 0
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"reading {path} failed: {error.strerror}") from error


class _HotFiles:
    """Reads what is in the page cache, so much and no more."""

    __slots__ = ("_files", "_left")

    def __init__(self, files: RealFiles, bytes_max: int) -> None:
        self._files = files
        self._left = bytes_max

    def read_at(self, path: str, position: int, size: int) -> bytes:
        data = bytearray(size)
        self.read_into(path, position, memoryview(data))
        return bytes(data)

    def read_into(self, path: str, position: int, view: memoryview) -> int:
        self._left -= len(view)
        if self._left < 0:
            raise NotResident
        with self._files.using(path) as descriptor:
            try:
                count = os.preadv(descriptor, [view], position, _RWF_NOWAIT) if len(view) else 0
            except OSError:  # not there yet, or a file system that can't tell
                raise NotResident from None
        if count < len(view):
            raise NotResident
        return count


def _find_fallocate() -> "ctypes._NamedFuncPointer | None":
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


_fallocate = _find_fallocate()


def _reserve(descriptor: int, position: int, size: int) -> None:
    """Reserve space without growing the file. Where that is impossible the file simply grows."""
    if _fallocate is not None:
        _fallocate(descriptor, _KEEP_SIZE, position, size)  # the write itself tells when there is no space
