"""Files in memory: for topics that are never written to disk, and under the simulated disk.

Always true: it behaves as a file system that never fails and forgets everything when the process ends.
"""

from collections.abc import Sequence

from dduomq.errors import DataDirError
from dduomq.log.files import Lease
from dduomq.ports import Buffer

UNLIMITED_BYTES = 1 << 62


class MemoryLease:
    """A file in memory, readable as long as somebody holds it."""

    __slots__ = ("_content",)

    def __init__(self, content: bytearray) -> None:
        self._content = content

    def fileno(self) -> int:
        return -1

    def read(self, position: int, size: int) -> bytes:
        return bytes(self._content[position : position + size])

    def is_resident(self, position: int, size: int) -> bool:
        return True

    def close(self) -> None:
        """Nothing is held."""


class MemoryLock:
    def __init__(self, held: set[str], path: str) -> None:
        self._held = held
        self._path = path

    def close(self) -> None:
        self._held.discard(self._path)


class MemoryFiles:
    """A `dduomq.log.files.Files` in memory."""

    def __init__(self) -> None:
        self.contents: dict[str, bytearray] = {}
        self.directories: set[str] = {"", "."}
        self._locks: set[str] = set()

    def _file(self, path: str) -> bytearray:
        try:
            return self.contents[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def write_at(self, path: str, buffers: Sequence[Buffer], position: int, *, reserve_to: int = 0) -> None:
        content = self.contents.setdefault(path, bytearray())
        if len(content) < position:
            content.extend(bytes(position - len(content)))
        for buffer in buffers:
            content[position : position + len(buffer)] = buffer
            position += len(buffer)

    def sync(self, path: str) -> None:
        self._file(path)

    def sync_dir(self, path: str) -> None:
        """Nothing to do."""

    def read_at(self, path: str, position: int, size: int) -> bytes:
        return bytes(self._file(path)[position : position + size])

    def read_into(self, path: str, position: int, view: memoryview) -> int:
        data = self._file(path)[position : position + len(view)]
        view[: len(data)] = data
        return len(data)

    def calm(self) -> "MemoryFiles":
        return self

    def hot(self, bytes_max: int) -> None:
        """Nothing here waits, and tests want the way through the disk threads."""
        del bytes_max

    def read(self, path: str) -> bytes:
        return bytes(self._file(path))

    def size(self, path: str) -> int:
        return len(self._file(path))

    def exists(self, path: str) -> bool:
        return path in self.contents or path in self.directories

    def list(self, path: str) -> "list[str]":
        if path not in self.directories:
            raise FileNotFoundError(path)
        prefix = path + "/"
        known = [*self.contents, *self.directories]
        return sorted({held[len(prefix) :].partition("/")[0] for held in known if held.startswith(prefix)})

    def make_dir(self, path: str) -> None:
        while path and path not in self.directories:
            self.directories.add(path)
            path = path.rpartition("/")[0]

    def rename(self, old: str, new: str) -> None:
        if not self.exists(old):
            raise FileNotFoundError(old)
        for held in [held for held in self.contents if held == old or held.startswith(old + "/")]:
            self.contents[new + held[len(old) :]] = self.contents.pop(held)
        for held in [held for held in self.directories if held == old or held.startswith(old + "/")]:
            self.directories.discard(held)
            self.directories.add(new + held[len(old) :])

    def remove(self, path: str) -> None:
        self.contents.pop(path, None)

    def remove_tree(self, path: str) -> None:
        for held in [held for held in self.contents if held == path or held.startswith(path + "/")]:
            del self.contents[held]
        self.directories = {held for held in self.directories if held != path and not held.startswith(path + "/")}

    def truncate(self, path: str, size: int) -> None:
        content = self._file(path)
        del content[size:]
        content.extend(bytes(size - len(content)))

    def replace(self, path: str, data: bytes, *, sync: bool = True) -> None:
        self.contents[path] = bytearray(data)

    def lease(self, path: str) -> Lease:
        return MemoryLease(self._file(path))

    def forget(self, path: str) -> None:
        """Nothing is cached."""

    def free_bytes(self, path: str) -> int:
        return UNLIMITED_BYTES

    def lock(self, path: str) -> object:
        if path in self._locks:
            raise DataDirError(f"{path.rpartition('/')[0]} is in use by another running node")
        self._locks.add(path)
        return MemoryLock(self._locks, path)
