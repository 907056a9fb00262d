"""One connection to one node: many requests in flight, each answered or failed.

Always true: every request that was sent ends in an answer or an error, also when the connection dies; a
payload is a view of what was received, not a copy.
"""

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, TypeVar

import anyio
import anyio.abc

from dduomq.errors import DduomqError, NetworkError, OutcomeUnknown, UsageError, from_code
from dduomq.ports import Buffer
from dduomq.wire import frame, native

RECEIVE_BYTES = 1024 * 1024
JOIN_BYTES_MAX = 64 * 1024
CONNECT_TIMEOUT_S = 10
SEND_TIMEOUT_S = 10
SLOWEST_BYTES_S = 64 * 1024  # a network that is slower than this is as good as none
ANSWER_BYTES_MAX = 64 * 1024 * 1024


class Transport(Protocol):
    """A connected byte stream."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self, max_bytes: int) -> bytes:
        """b"" at the end."""

    async def aclose(self) -> None: ...


Dial: TypeAlias = Callable[[str, int], Awaitable[Transport]]
E = TypeVar("E", bound=DduomqError)
BROKEN = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class TcpTransport:
    """anyio's TCP stream."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def receive(self, max_bytes: int) -> bytes:
        try:
            return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""

    async def aclose(self) -> None:
        await self._stream.aclose()


async def dial_tcp(host: str, port: int) -> Transport:
    with anyio.fail_after(CONNECT_TIMEOUT_S):
        return TcpTransport(await anyio.connect_tcp(host, port))


class _Waiting:
    """A request that waits for its answer."""

    __slots__ = ("body", "code", "error", "event", "message", "on_answer", "payload")

    def __init__(self) -> None:
        self.event: anyio.Event | None = None
        self.on_answer: Callable[[], None] | None = None
        self.code = 0
        self.message: str | None = None
        self.body: Any = None
        self.payload: memoryview = memoryview(b"")
        self.error: DduomqError | None = None

    def take(self, code: int, message: str | None, body: Any, payload: memoryview) -> None:
        """The answer is there."""
        self.code, self.message, self.body, self.payload = code, message, body, payload
        self._finish()

    def fail(self, error: DduomqError) -> None:
        """No answer will come."""
        if self.body is None and not self.code:
            self.error = error
            self._finish()

    def _finish(self) -> None:
        if self.event is not None:
            self.event.set()
        if self.on_answer is not None:
            self.on_answer()


class AnswerStream:
    """A request that is answered many times, until an error ends it. `on_frame()` is called for each, and at the end.

    Bounded by what the request allows the broker to send.
    """

    __slots__ = ("_connection", "correlation", "error", "frames", "on_frame")

    def __init__(self, connection: "Connection", correlation: int, on_frame: Callable[[], None]) -> None:
        self._connection = connection
        self.correlation = correlation
        self.frames: deque[tuple[Any, memoryview]] = deque()
        self.error: DduomqError | None = None
        self.on_frame = on_frame

    def take(self, code: int, message: str | None, body: Any, payload: memoryview) -> None:
        if code:
            self._connection.forget(self.correlation)
            self.fail(from_code(code, message or ""))
            return
        self.frames.append((body, payload))
        self.on_frame()

    def fail(self, error: DduomqError) -> None:
        self.error = error
        self.on_frame()

    async def tell(self, body: object) -> None:
        """Say something about this stream, on its own connection; one that is gone needs not to know."""
        if self.error is None:
            with suppress(DduomqError):
                await self._connection.tell(body, 1_000, ())

    @property
    def node_id(self) -> int:
        """Who sends it."""
        return self._connection.node_id

    async def end(self, last_word: object, error: DduomqError | None = None) -> None:
        """Nobody reads it any more: whatever still comes is dropped, and the broker is told. `error`: why it ended."""
        if self.error is None:
            self._connection.forget(self.correlation)
            self.frames.clear()
            self.fail(error or UsageError("this stream was ended"))
            with suppress(DduomqError):
                await self._connection.tell(last_word, 1_000, ())


class Pending:
    """A request that has left. `wait` for its answer, once."""

    __slots__ = ("_connection", "_correlation", "_heard", "_timeout_ms", "_waiting", "on_error")

    def __init__(self, connection: "Connection", correlation: int, waiting: _Waiting, timeout_ms: int) -> None:
        self._connection = connection
        self._correlation = correlation
        self._waiting = waiting
        self._timeout_ms = timeout_ms
        self._heard = connection.heard
        self.on_error: Callable[[DduomqError], object] | None = None  # who keeps the way to the node wants to know

    async def wait(self) -> tuple[Any, memoryview]:
        """(the answer's plain body, its payload). Raises the broker's error, or `OutcomeUnknown`."""
        waiting = self._waiting
        try:
            if not self.is_answered:
                waiting.event = anyio.Event()
                with anyio.move_on_after(self._timeout_ms / 1000) as scope:
                    await waiting.event.wait()
                if scope.cancelled_caught:
                    raise self.late(f"{self._connection.address} gave no answer in {self._timeout_ms} ms")
        finally:
            self.forget()
        return self.answer()

    def late(self, text: str) -> OutcomeUnknown:
        """Its time is over, and nobody waits any more: the error to raise."""
        self.forget()
        if self._connection.heard == self._heard:
            self._connection.is_silent = True
        return self._failed(OutcomeUnknown(text))

    def _failed(self, error: E) -> E:
        if self.on_error is not None:
            self.on_error(error)
        return error

    @property
    def is_answered(self) -> bool:
        return self._waiting.body is not None or self._waiting.code != 0 or self._waiting.error is not None

    def call(self, on_answer: Callable[[], None]) -> None:
        """Call `on_answer` as soon as `answer` has something to say: cheaper than a task that waits."""
        self._waiting.on_answer = on_answer
        if self.is_answered:
            on_answer()

    def forget(self) -> None:
        """Nobody waits for the answer any more."""
        self._waiting.on_answer = None
        self._connection.forget(self._correlation)

    def answer(self) -> tuple[Any, memoryview]:
        """What `wait` gives, now."""
        waiting = self._waiting
        if waiting.error is not None:
            raise self._failed(waiting.error)
        if waiting.code:
            raise self._failed(from_code(waiting.code, waiting.message or ""))
        return waiting.body, waiting.payload


class Connection:
    """See the file's head. `run` must live in a task group as long as the connection is used.

    `node_id` is known after `greet`. `heard` counts what has come; `is_silent`: a request's time has run out since
    anything came, so who can ask another node does.
    """

    def __init__(self, transport: Transport, address: str) -> None:
        self._transport = transport
        self.address = address
        self._waiting: dict[int, _Waiting | AnswerStream] = {}
        self._numbers = itertools.count(1)
        self._lock = anyio.Lock()
        self._scope = anyio.CancelScope()
        self.broken: DduomqError | None = None
        self.node_id = -1
        self.heard = 0
        self.is_silent = False

    @property
    def is_waiting(self) -> bool:
        """Whether anything is to come."""
        return bool(self._waiting)

    async def greet(self, client: str) -> native.HelloAnswer:
        """Say hello; to be called while `run` runs."""
        await self._transport.send(frame.MAGIC)
        answer, _ = await self.ask(native.Hello(native.PROTOCOL_VERSION, client), 10_000)
        hello = native.from_plain(native.HelloAnswer, answer)
        self.node_id = hello.node_id
        return hello

    def end(self, error: DduomqError) -> None:
        """It is not wanted any more; what still waits fails."""
        self._break(error)
        self._scope.cancel()

    async def ask(self, body: object, timeout_ms: int, payload: Sequence[Buffer] = ()) -> tuple[Any, memoryview]:
        """(the answer's plain body, its payload). Raises the broker's error, `NetworkError`, `OutcomeUnknown`."""
        pending = await self.post(body, timeout_ms, payload)
        return await pending.wait()

    async def post(self, body: object, timeout_ms: int, payload: Sequence[Buffer] = ()) -> "Pending":
        """Send a request; its answer is awaited apart, so that requests leave in the order of their posting."""
        correlation = next(self._numbers)
        waiting = _Waiting()
        self._waiting[correlation] = waiting
        try:
            await self._send(correlation, body, timeout_ms, payload)
        except BaseException:
            self._waiting.pop(correlation, None)
            raise
        return Pending(self, correlation, waiting, timeout_ms)

    async def open_stream(self, body: object, on_frame: Callable[[], None]) -> AnswerStream:
        """Send a request that is answered many times."""
        correlation = next(self._numbers)
        stream = AnswerStream(self, correlation, on_frame)
        self._waiting[correlation] = stream
        try:
            await self._send(correlation, body, 0, ())
        except BaseException:
            self._waiting.pop(correlation, None)
            raise
        return stream

    async def tell(self, body: object, timeout_ms: int, payload: Sequence[Buffer]) -> None:
        """Send a request that has no answer."""
        await self._send(next(self._numbers), body, timeout_ms, payload)

    def forget(self, correlation: int) -> None:
        """Nobody waits for that answer any more."""
        self._waiting.pop(correlation, None)

    async def _send(self, correlation: int, body: object, timeout_ms: int, payload: Sequence[Buffer]) -> None:
        size = sum(len(part) for part in payload)
        head = frame.write(native.request_header(correlation, timeout_ms, body), size)
        if self.broken is not None:
            raise self.broken
        try:
            async with self._lock:
                # half a frame would spoil the connection: whoever is cancelled waits until it has left
                limit_s = SEND_TIMEOUT_S + size / SLOWEST_BYTES_S
                with anyio.move_on_after(limit_s, shield=True) as scope:
                    await self._send_frame(head, payload, size)
        except BROKEN as error:
            raise self._break(NetworkError(f"the connection to {self.address} broke: {_text(error)}")) from error
        if scope.cancelled_caught:
            raise self._break(NetworkError(f"{self.address} has not taken {len(head) + size} bytes in {limit_s:.0f} s"))

    async def _send_frame(self, head: bytes, payload: Sequence[Buffer], size: int) -> None:
        if size <= JOIN_BYTES_MAX:
            await self._transport.send(b"".join((head, *payload)))
            return
        await self._transport.send(head)
        for part in payload:
            await self._transport.send(part)  # type: ignore[arg-type]  # any buffer will do

    async def run(self) -> None:
        """Receive answers until the connection ends; then fail whatever still waits."""
        try:
            with self._scope:
                await self._receive()
                self._break(NetworkError(f"{self.address} closed the connection"))
        except BROKEN as error:
            self._break(NetworkError(f"the connection to {self.address} broke: {_text(error)}"))
        except DduomqError as error:
            self._break(error)
        finally:
            self._break(NetworkError(f"the connection to {self.address} is closed"))
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await self._transport.aclose()

    async def _receive(self) -> None:
        buffer, need = bytearray(), frame.PREFIX_BYTES
        while data := await self._transport.receive(RECEIVE_BYTES):
            self.heard += 1
            self.is_silent = False
            buffer += data
            if len(buffer) >= need:
                buffer, need = self._cut(buffer)

    def _cut(self, buffer: bytearray) -> tuple[bytearray, int]:
        """Hand on the whole answers in `buffer`; (what is left of it, how much the next one needs)."""
        view, at, need = memoryview(buffer), 0, frame.PREFIX_BYTES
        while len(view) - at >= frame.PREFIX_BYTES:
            header_length, payload_length = frame.read_prefix(view[at : at + frame.PREFIX_BYTES], ANSWER_BYTES_MAX)
            start = at + frame.PREFIX_BYTES
            end = start + header_length + payload_length
            if end > len(view):
                need = end - at
                break
            self._answered(view[start : start + header_length], view[start + header_length : end])
            at = end
        return bytearray(view[at:]), need

    def _answered(self, header: memoryview, payload: memoryview) -> None:
        correlation, code, message, body = native.read_answer(frame.read_header(bytes(header)))
        if correlation == 0:
            raise from_code(code, message or "")
        waiting = self._waiting.get(correlation)
        if waiting is None:
            return
        waiting.take(code, message, body, payload)

    def _break(self, error: DduomqError) -> DduomqError:
        if self.broken is None:
            self.broken = error
        unanswered, self._waiting = self._waiting, {}
        for waiting in unanswered.values():
            waiting.fail(OutcomeUnknown(f"no answer came: {error.message}"))
        return self.broken


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
