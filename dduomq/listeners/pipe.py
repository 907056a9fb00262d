"""A connection inside the process: for a node that is embedded without a port.

Always true: what one end sends the other receives, in order; at most `PIPE_BYTES` lie between them.
"""

import trio

from dduomq.ports import Buffer, FileRange

PIPE_BYTES = 1024 * 1024
FILE_SLICE_BYTES = 256 * 1024


class _Way:
    """One direction."""

    __slots__ = ("changed", "data", "is_closed")

    def __init__(self) -> None:
        self.data = bytearray()
        self.changed = trio.Event()
        self.is_closed = False

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class PipeEnd:
    """One end: a `dduomq.ports.Stream` for the node, a transport for the client."""

    __slots__ = ("_incoming", "_outgoing", "peer")

    def __init__(self, incoming: _Way, outgoing: _Way, peer: str) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.peer = peer

    async def receive_into(self, view: memoryview) -> int:
        data = await self.receive(len(view))
        view[: len(data)] = data
        return len(data)

    async def receive(self, max_bytes: int) -> bytes:
        """b"" when the other end is closed."""
        way = self._incoming
        while not way.data and not way.is_closed:
            await way.changed.wait()
        data = bytes(way.data[:max_bytes])
        del way.data[:max_bytes]
        way.change()
        return data

    def send_nowait(self, data: Buffer) -> int:
        way = self._outgoing
        if way.is_closed:
            raise trio.BrokenResourceError("the other end is closed")
        size = min(len(data), PIPE_BYTES - len(way.data))
        way.data += memoryview(data)[:size]
        way.change()
        return size

    async def send(self, data: Buffer) -> None:
        view = memoryview(data)
        while len(view):
            view = view[self.send_nowait(view) :]
            if len(view):
                await self.wait_writable()

    def send_file_nowait(self, source: FileRange, position: int, size: int) -> int:
        data = source.read(position, min(FILE_SLICE_BYTES, size))
        if not data:
            raise trio.BrokenResourceError("the file is shorter than the answer promised")
        return self.send_nowait(data)

    async def wait_writable(self) -> None:
        await self._outgoing.changed.wait()

    async def aclose(self) -> None:
        for way in (self._incoming, self._outgoing):
            way.is_closed = True
            way.change()


def open_pipe() -> tuple[PipeEnd, PipeEnd]:
    """(the client's end, the node's end)."""
    there, back = _Way(), _Way()
    return PipeEnd(back, there, "node"), PipeEnd(there, back, "in-process")
