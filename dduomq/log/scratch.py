"""Buffers to read into, used again and again: fresh pages cost more than the copy into them.

Always true: a buffer has one user at a time; what was read into it is gone when it has been given back.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

BUFFERS_MAX = 8
KEPT_BYTES_MAX = 2 * 1024 * 1024


class Scratch:
    """A buffer that grows as it must."""

    __slots__ = ("view",)

    def __init__(self) -> None:
        self.view = memoryview(bytearray())

    def hold(self, size: int, keep: int) -> memoryview:
        """Room for `size` bytes, of which the first `keep` stay as they are."""
        if len(self.view) < size:
            grown = memoryview(bytearray(1 << (size - 1).bit_length()))
            grown[:keep] = self.view[:keep]
            self.view = grown
        return self.view


_spare: deque[Scratch] = deque(maxlen=BUFFERS_MAX)  # shared by the threads; its ends are popped and pushed in one step


@contextmanager
def borrowed() -> Iterator[Scratch]:
    """A buffer for the length of the block."""
    try:
        scratch = _spare.pop()
    except IndexError:
        scratch = Scratch()
    try:
        yield scratch
    finally:
        if len(scratch.view) <= KEPT_BYTES_MAX:
            _spare.append(scratch)
