"""Cuts a byte stream into frames without copying the large ones twice.

Small frames arrive in the node's shared scratch buffer and are copied out of it; a frame larger than what has
arrived gets a buffer of its own as soon as its length is known, and the rest is received straight into it.
Always true: nothing is allocated for a length that was not checked.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio

from dduomq.errors import DduomqError, FrameTooLarge, WireError
from dduomq.limits import FRAME_BYTES_PER_S_MIN, FRAME_TIMEOUT_MS
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.connection import NEVER, Connection
from dduomq.wire import frame


@attrs.frozen
class Framing:
    """How a protocol's frames begin: `read(prefix, most)` gives the sizes of header and payload."""

    prefix_bytes: int
    read: Callable[[bytes, int], tuple[int, int]]


def _read_kafka_length(prefix: bytes, frame_bytes_max: int) -> tuple[int, int]:
    length = int.from_bytes(prefix, "big", signed=True)
    if length > frame_bytes_max:
        raise FrameTooLarge(f"a request announces {length} bytes, {frame_bytes_max} is the most here")
    if length < KAFKA_HEADER_BYTES:
        raise WireError(f"a request of {length} bytes can't be")
    return 0, length


KAFKA_HEADER_BYTES = 10  # key, version, correlation, length of the client's name
NATIVE = Framing(frame.PREFIX_BYTES, frame.read_prefix)
KAFKA = Framing(4, _read_kafka_length)


@attrs.define(eq=False)
class Frame:
    """One whole frame. `payload` is writable and belongs to the receiver until `release`."""

    header: bytes
    payload: memoryview
    buffer: bytearray
    size: int
    _buffers: Buffers
    _is_held: bool = True

    def release(self, *, recycle: bool = False) -> None:
        """Give its size back to the budget, once; with `recycle` its buffer, too: nobody may look at it any more."""
        if self._is_held:
            self._is_held = False
            self._buffers.give(self.size)
            if recycle:
                self._buffers.recycle(self.buffer)


class FrameCutter:
    """Feed it bytes; it says how large the next frame is, and gives the frames that are whole."""

    __slots__ = ("_buffer", "_filled", "_framing", "_head", "_header_length", "_length", "buffers", "frame_bytes_max")

    def __init__(self, framing: Framing, frame_bytes_max: int, buffers: Buffers) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.buffers = buffers
        self._framing = framing
        self._head = bytearray()  # the beginning of a frame whose prefix is not whole yet
        self._buffer: bytearray | None = None
        self._filled = 0
        self._length = 0
        self._header_length = 0

    def next_size(self, view: memoryview) -> int | None:
        """Bytes of the frame that begins in what is held plus `view`; None while that is unknown.

        Raises `FrameTooLarge` or `WireError`.
        """
        framing = self._framing
        if len(self._head) + len(view) < framing.prefix_bytes:
            return None
        prefix = bytes(self._head) + bytes(view[: framing.prefix_bytes - len(self._head)])
        header, payload = framing.read(prefix, self.frame_bytes_max)
        return header + payload

    def begin(self, view: memoryview, size: int) -> int:
        """Start the frame of `size` bytes, taken from the budget before; how much of `view` was the prefix."""
        used = self._framing.prefix_bytes - len(self._head)
        prefix = bytes(self._head) + bytes(view[:used])
        header, payload = self._framing.read(prefix, self.frame_bytes_max)
        self._head.clear()
        self._buffer, self._filled = self.buffers.buffer(size), 0
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
        return Frame(header, view[self._header_length : self._length], buffer, self._length, self.buffers)

    def drop(self) -> None:
        """The rest of the frame never comes."""
        if self._buffer is not None:
            self._buffer = None
            self.buffers.give(self._length)


class FrameReader:
    """Receives frames into buffers of the node's budget and hands them on, one after another.

    Whoever gets a frame releases it once it is answered; one that he breaks down over is released here.
    """

    __slots__ = ("_connection", "_cutter", "_handle", "_scratch")

    def __init__(
        self,
        connection: Connection,
        scratch: bytearray,
        cutter: FrameCutter,
        handle: Callable[[Frame], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._scratch = memoryview(scratch)
        self._cutter = cutter
        self._handle = handle

    async def run(self, first: bytes) -> None:
        """Until the client goes. Raises `WireError` for bytes that are no frame."""
        try:
            await self._consume(memoryview(first))
            self._watch()
            while await self._receive():
                pass
        finally:
            self._cutter.drop()

    def _watch(self) -> None:
        """A frame that has begun must come to its end: who only dribbles would hold its share of the budget."""
        connection, cutter = self._connection, self._cutter
        if not cutter.is_inside:
            connection.frame_due = NEVER
        elif connection.frame_due == NEVER:
            seconds = FRAME_TIMEOUT_MS / 1000 + len(cutter.room()) / FRAME_BYTES_PER_S_MIN
            connection.frame_due = trio.current_time() + seconds

    async def _receive(self) -> bool:
        cutter = self._cutter
        if cutter.is_inside:
            received = await self._connection.receive_into(cutter.room())
            cutter.received(received)
            whole = cutter.take()
            if whole is not None:
                await self._hand_on([whole])
        else:
            received = await self._connection.receive_into(self._scratch)
            await self._consume(self._scratch[:received])
        self._watch()
        return received > 0

    async def _consume(self, view: memoryview) -> None:
        """Cut frames out of `view`. It is the shared scratch buffer: copied before anything is awaited."""
        cutter, buffers = self._cutter, self._cutter.buffers
        frames: list[Frame] = []
        try:
            while len(view):
                if not cutter.is_inside:
                    size = cutter.next_size(view)
                    if size is None:
                        cutter.hold(view)
                        break
                    if not buffers.try_take(size):
                        view = memoryview(bytes(view))
                        await self._hand_on(frames)
                        await buffers.take(size)
                    view = view[cutter.begin(view, size) :]
                view = view[cutter.fill(view) :]
                if (whole := cutter.take()) is not None:
                    frames.append(whole)
        except DduomqError:
            await self._hand_on(frames)  # what came before the nonsense is good
            raise
        await self._hand_on(frames)

    async def _hand_on(self, frames: list[Frame]) -> None:
        """Empties the list."""
        try:
            while frames:
                await self._handle(frames[0])
                del frames[0]
        except BaseException:
            for left in frames:
                left.release()
            frames.clear()
            raise
