"""Cuts a byte stream into native frames without copying the large ones twice.

Small frames arrive in the node's shared scratch buffer and are copied out of it; a frame larger than what has
arrived gets a buffer of its own as soon as its length is known, and the rest is received straight into it.
Always true: nothing is allocated for a length that was not checked.
"""

import attrs

from dduomq.wire import frame


@attrs.frozen
class Frame:
    """One whole frame. `payload` is writable and belongs to the receiver; `size` counts in the budget."""

    header: bytes
    payload: memoryview
    buffer: bytearray
    size: int


class FrameCutter:
    """Feed it bytes; it says how large the next frame is, and gives the frames that are whole."""

    __slots__ = ("_buffer", "_filled", "_head", "_header_length", "_length", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._head = bytearray()  # the beginning of a frame whose prefix is not whole yet
        self._buffer: bytearray | None = None
        self._filled = 0
        self._length = 0
        self._header_length = 0

    def next_size(self, view: memoryview) -> int | None:
        """Bytes of the frame that begins in what is held plus `view`; None while that is unknown.

        Raises `FrameTooLarge` or `WireError`.
        """
        if len(self._head) + len(view) < frame.PREFIX_BYTES:
            return None
        prefix = bytes(self._head) + bytes(view[: frame.PREFIX_BYTES - len(self._head)])
        header, payload = frame.read_prefix(prefix, self.frame_bytes_max)
        return header + payload

    def begin(self, view: memoryview, buffer: bytearray) -> int:
        """Start the frame in `buffer` (its `next_size` bytes or more); how much of `view` was the prefix."""
        used = frame.PREFIX_BYTES - len(self._head)
        prefix = bytes(self._head) + bytes(view[:used])
        header, payload = frame.read_prefix(prefix, self.frame_bytes_max)
        self._head.clear()
        self._buffer, self._filled = buffer, 0
        self._length, self._header_length = header + payload, header
        return used

    def hold(self, view: memoryview) -> None:
        """Keep bytes that are less than a prefix."""
        self._head += view

    @property
    def is_inside(self) -> bool:
        """Whether a frame has begun and is not whole."""
        return self._buffer is not None

    def fill(self, view: memoryview) -> int:
        """Copy what belongs to the frame; how many bytes that was."""
        assert self._buffer is not None
        size = min(len(view), self._length - self._filled)
        self._buffer[self._filled : self._filled + size] = view[:size]
        self._filled += size
        return size

    def room(self) -> memoryview:
        """Where the rest of the frame is to be received."""
        assert self._buffer is not None
        return memoryview(self._buffer)[self._filled : self._length]

    def received(self, size: int) -> None:
        """So many bytes were put into `room()`."""
        self._filled += size

    def take(self) -> Frame | None:
        """The frame, once it is whole."""
        if self._buffer is None or self._filled < self._length:
            return None
        buffer, self._buffer = self._buffer, None
        view = memoryview(buffer)
        header = bytes(view[: self._header_length])
        return Frame(header, view[self._header_length : self._length], buffer, self._length)
