"""Frames on a link's connection: whole ones in, bounded queues of them out.

Always true: a small frame is copied once out of what was received, a large one is received where it stays; one-way
messages go before requests and are dropped, the oldest first, when they are too many; a frame that has begun is sent to
its end.
"""

from collections import deque
from collections.abc import Sequence

import trio

from dduomq.limits import FRAME_BYTES_MAX_UNGREETED, LINK_MESSAGES_BYTES_MAX, LINK_REQUEST_BYTES_MAX
from dduomq.ports import Buffer, Stream
from dduomq.wire import frame

SCRATCH_BYTES = 64 * 1024
JOINED_BYTES_MAX = 64 * 1024  # a frame up to this size goes to the socket in one piece


class FramesIn:
    """Cuts what a stream gives into frames."""

    __slots__ = ("_begin", "_end", "_scratch", "_stream", "bytes_max")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._begin = self._end = 0
        self.bytes_max = FRAME_BYTES_MAX_UNGREETED  # until the other side has proved who it is

    async def next(self) -> tuple[list[object], memoryview]:
        """The header and the payload of the next frame. Raises `WireError`, `trio.BrokenResourceError` at the end."""
        prefix = bytearray(frame.PREFIX_BYTES)
        await self._fill(memoryview(prefix))
        header_length, payload_length = frame.read_prefix(prefix, self.bytes_max)
        view = memoryview(bytearray(header_length + payload_length))
        await self._fill(view)
        return frame.read_header(view[:header_length]), view[header_length:]

    async def _fill(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            held = min(self._end - self._begin, len(view) - filled)
            if held:
                view[filled : filled + held] = self._scratch[self._begin : self._begin + held]
                self._begin += held
                filled += held
            elif len(view) - filled >= SCRATCH_BYTES:
                filled += await self._receive(view[filled:])
            else:
                self._end = await self._receive(self._scratch)
                self._begin = 0

    async def _receive(self, view: memoryview) -> int:
        received = await self._stream.receive_into(view)
        if not received:
            raise trio.BrokenResourceError("the other node has closed the connection")
        return received


class FramesOut:
    """What waits to be sent. `write` is the task that sends; `put_*` send at once while it has nothing to do."""

    __slots__ = ("_blocked", "_chunks", "_is_blocked", "_messages", "_requests", "_stream", "_waiting", "dropped")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._chunks: deque[Buffer] = deque()  # of the frame in hand
        self._messages: deque[list[Buffer]] = deque()
        self._requests: deque[list[Buffer]] = deque()
        self._waiting = [0, 0]  # bytes of messages and of requests
        self._blocked = trio.Event()
        self._is_blocked = False
        self.dropped = 0

    def put_message(self, chunks: list[Buffer]) -> None:
        """One way: if too many wait, the oldest go."""
        self._messages.append(chunks)
        self._waiting[0] += _size(chunks)
        while self._waiting[0] > LINK_MESSAGES_BYTES_MAX and len(self._messages) > 1:
            self._waiting[0] -= _size(self._messages.popleft())
            self.dropped += 1
        self._kick()

    def put_request(self, chunks: list[Buffer]) -> bool:
        """False if too much waits already."""
        size = _size(chunks)
        if self._waiting[1] and self._waiting[1] + size > LINK_REQUEST_BYTES_MAX:
            return False
        self._requests.append(chunks)
        self._waiting[1] += size
        self._kick()
        return True

    def _kick(self) -> None:
        if self._is_blocked:
            return
        try:
            self._is_blocked = not self._send()
        except trio.BrokenResourceError:
            self._is_blocked = True  # the writer meets the same, and ends the connection
        if self._is_blocked:
            self._blocked.set()

    def _send(self) -> bool:
        """Send all there is; False if the socket is full."""
        while self._chunks or self._take():
            chunk = self._chunks[0]
            sent = self._stream.send_nowait(chunk)
            if sent < len(chunk):
                self._chunks[0] = memoryview(chunk)[sent:]
                return False
            self._chunks.popleft()
        return True

    def _take(self) -> bool:
        """The next frame into the hand."""
        which = 0 if self._messages else 1
        queue = self._messages or self._requests
        if not queue:
            return False
        chunks = queue.popleft()
        size = _size(chunks)
        self._waiting[which] -= size
        self._chunks.extend([b"".join(chunks)] if size <= JOINED_BYTES_MAX else chunks)
        return True

    async def write(self) -> None:
        """Send what did not fit at once, for as long as the connection lives. Raises `trio.BrokenResourceError`."""
        while True:
            await self._blocked.wait()
            while not self._send():
                await self._stream.wait_writable()
            self._is_blocked = False
            self._blocked = trio.Event()


def _size(chunks: Sequence[Buffer]) -> int:
    return sum(map(len, chunks))


def join(header: list[object], payload: Sequence[Buffer]) -> list[Buffer]:
    """The chunks of a frame."""
    return [frame.write(header, _size(payload)), *payload]
