"""One connection: bytes in, frames out of them; answers in, bytes out of them.

Always true: only `write` and, while it has nothing to do, `send` touch the stream's sending side; an answer
is sent whole or the connection ends; a client that does not read its answers is cut off before they fill the
memory; leases of answers that were never sent are closed.
"""

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import attrs
import trio

from dduomq.errors import DduomqError
from dduomq.limits import SEND_BACKLOG_BYTES_MAX
from dduomq.log.files import Lease
from dduomq.ports import Buffer, Stream


class SlowReader(DduomqError):
    """The client does not read its answers."""

    code = 1120


@attrs.frozen
class FilePart:
    """A range of a leased file, to be sent after the bytes before it."""

    lease: Lease
    position: int
    size: int


NEVER = float("inf")
Chunk: TypeAlias = bytes | bytearray | memoryview | FilePart


class Connection:
    """The sending side, and what the sweeper must know."""

    __slots__ = (
        "_backlog",
        "_bytes",
        "_drained",
        "_scope",
        "_stream",
        "_wake",
        "behind_since",
        "closed",
        "frame_due",
        "last_heard",
        "last_sent",
    )

    def __init__(self, stream: Stream, now: float) -> None:
        self._stream = stream
        self._backlog: deque[Chunk] = deque()
        self._bytes = 0
        self._wake: trio.lowlevel.Task | None = None
        self._scope: trio.CancelScope | None = None
        self._drained: trio.Event | None = None
        self.closed = False
        self.frame_due = NEVER
        self.last_heard = now
        self.last_sent = now
        self.behind_since = now

    @property
    def peer(self) -> str:
        return self._stream.peer

    @property
    def is_behind(self) -> bool:
        return bool(self._backlog)

    def end(self) -> None:
        """Close, from any task: the connection's tasks are cancelled."""
        self.closed = True
        if self._scope is not None:
            self._scope.cancel()

    def bind(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    def send(self, data: Buffer) -> None:
        """Send at once what the socket takes, leave the rest to the writer. Never waits, never raises."""
        self.send_parts([data])

    def send_parts(self, chunks: Sequence[Chunk]) -> None:
        """The same with bytes and file ranges, in order; leases are closed when sent, or never sent."""
        if self.closed:
            _close_leases(chunks)
            return
        was_behind = self.is_behind
        self._backlog.extend(chunks)
        self._bytes += sum(len(chunk) for chunk in chunks if not isinstance(chunk, FilePart))
        if not was_behind:
            self._send_now()
        if self._bytes > SEND_BACKLOG_BYTES_MAX:
            self.end()

    def _send_now(self) -> None:
        """While nothing waits before it, an answer needs no writer, unless the socket is full."""
        try:
            while self._backlog and self._put():
                pass
        except trio.BrokenResourceError:
            self.end()
        if self._backlog:
            self.behind_since = trio.current_time()
            if self._wake is not None:
                trio.lowlevel.reschedule(self._wake)
                self._wake = None

    def _put(self) -> bool:
        """Hand the first chunk to the socket; whether it took all of it."""
        chunk = self._backlog[0]
        if isinstance(chunk, FilePart):
            sent = self._stream.send_file_nowait(chunk.lease, chunk.position, chunk.size)
            if sent < chunk.size:
                self._backlog[0] = FilePart(chunk.lease, chunk.position + sent, chunk.size - sent)
                return False
            chunk.lease.close()
        else:
            sent = self._stream.send_nowait(chunk)
            self._bytes -= sent
            if sent < len(chunk):
                self._backlog[0] = memoryview(chunk)[sent:]
                return False
        self._backlog.popleft()
        return True

    async def send_and_wait(self, data: Buffer) -> None:
        """Send, and wait until the socket has taken it all: for who makes answers faster than they are read."""
        self.send(data)
        await self.drained()

    async def drained(self) -> None:
        """Wait until the socket has taken all that was sent, or the connection has ended."""
        while self.is_behind and not self.closed:
            if self._drained is None or self._drained.is_set():
                self._drained = trio.Event()
            await self._drained.wait()

    async def write(self) -> None:
        """The writer task: sends the backlog, sleeps while there is none."""
        try:
            while True:
                if not self._backlog:
                    if self._drained is not None:
                        self._drained.set()
                    self._wake = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
                elif not self._put():
                    await self._stream.wait_writable()
                self.last_sent = trio.current_time()
        except trio.BrokenResourceError:
            self.end()
        finally:
            self.closed = True
            _close_leases(self._backlog)
            self._backlog.clear()
            if self._drained is not None:
                self._drained.set()

    def _abort_wait(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._wake = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def receive_into(self, view: memoryview) -> int:
        received = await self._stream.receive_into(view)
        self.last_heard = trio.current_time()
        return received


def _close_leases(chunks: Sequence[Chunk] | deque[Chunk]) -> None:
    for chunk in chunks:
        if isinstance(chunk, FilePart):
            chunk.lease.close()
