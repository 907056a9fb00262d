"""The memory that requests lie in: taken when a frame's length is known, given back when it is answered.

Always true: the bytes of all requests a node holds stay within its budget; an idle connection holds none.
Large buffers are pooled, because fresh pages cost more than the copy into them.
"""

from collections import deque

import trio

POOLED_FROM_BYTES = 64 * 1024
POOL_BYTES_MAX = 32 * 1024 * 1024


class Buffers:
    """A byte budget with a pool of large buffers behind it."""

    def __init__(self, bytes_max: int) -> None:
        self._free = bytes_max
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        self._pool: dict[int, list[bytearray]] = {}
        self._pooled = 0
        self.bytes_max = bytes_max

    @property
    def in_use(self) -> int:
        return self.bytes_max - self._free

    def try_take(self, size: int) -> bool:
        """Take `size` bytes of the budget if they are free and nobody waits before."""
        if self._waiting or size > self._free:
            return False
        self._free -= size
        return True

    async def take(self, size: int) -> None:
        """Take `size` bytes of the budget, waiting in line for them."""
        if self.try_take(size):
            return
        entry = (size, trio.Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except trio.Cancelled:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self.give(size)
            raise

    def give(self, size: int) -> None:
        self._free += size
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, granted = self._waiting.popleft()
            self._free -= wanted
            granted.set()

    def buffer(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes; its old content is still in it."""
        if size < POOLED_FROM_BYTES:
            return bytearray(size)
        shelf = self._pool.get(_class_of(size))
        if shelf:
            self._pooled -= _class_of(size)
            return shelf.pop()
        return bytearray(_class_of(size))

    def recycle(self, buffer: bytearray) -> None:
        """Give a buffer back; nobody may look at it any more."""
        size = len(buffer)
        if size < POOLED_FROM_BYTES or self._pooled + size > POOL_BYTES_MAX:
            return
        self._pooled += size
        self._pool.setdefault(size, []).append(buffer)


def _class_of(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()
