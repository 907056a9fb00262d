"""The other nodes' requests: who may ask, and who answers.

A connection whose first request is `PeerHello` comes here. Until both sides have proved themselves nothing is read but
the two words of the handshake, of 64 KiB at most. Requests are handed to `PeerHandlers`, each in a task of its own, and
answered as they are done; one-way messages are handed on at once, in their order. Always true: a connection has no more
than `REQUESTS_IN_FLIGHT_MAX` requests in hand; the bytes of all of them have a budget of their own, so that clients
can't hold up the nodes among themselves; nonsense ends the connection, with one line in the log.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, TypeAlias

import attrs
import structlog
import trio

from dduomq.cluster.handshake import PeerBook, Seen
from dduomq.errors import DduomqError, UnknownServerError, WireError
from dduomq.limits import (
    FRAME_BYTES_MAX,
    FRAME_BYTES_MAX_UNGREETED,
    LINK_SILENCE_MS,
    PEER_REQUEST_BYTES_MAX,
    REQUESTS_IN_FLIGHT_MAX,
)
from dduomq.listeners.buffers import Buffers
from dduomq.listeners.connection import Chunk, Connection, FilePart
from dduomq.listeners.frames import NATIVE, Frame, FrameCutter, FrameReader
from dduomq.wire import frame, peer
from dduomq.wire.peer_hello import (
    AskFacts,
    PeerFacts,
    PeerHello,
    PeerHelloAnswer,
    PeerProof,
    PeerProofAnswer,
    Ping,
    Pong,
)


@attrs.frozen
class PeerContext:
    """Who asks: a node that has proved itself. `connection`: a later one has a higher number."""

    node_id: int
    directory_id: str
    address: str
    connection: int = 0


Handler: TypeAlias = Callable[[PeerContext, Any, memoryview], Awaitable[tuple[object, Sequence[Chunk]]]]
MessageHandler: TypeAlias = Callable[[PeerContext, Any, memoryview], None]


class PeerHandlers:
    """Who answers which request. Filled by `node.build`, before the listeners are opened.

    The payload belongs to the handler until it returns: it is the connection's memory, to be copied if it must stay.
    """

    def __init__(self) -> None:
        self.requests: dict[type, Handler] = {Ping: _pong}
        self.messages: dict[type, MessageHandler] = {}

    def on_request(self, kind: type, handler: Handler) -> None:
        """`handler` gives the answer's body and payload, or raises a `DduomqError`, which travels as such."""
        self.requests[kind] = handler

    def on_message(self, kind: type, handler: MessageHandler) -> None:
        """For requests that are one way. Never waits; may raise `WireError`, which ends the connection."""
        self.messages[kind] = handler


async def _pong(_context: PeerContext, _body: Ping, _payload: memoryview) -> tuple[object, Sequence[Chunk]]:
    return Pong(), ()


class PeerServer:
    """What the connections of all other nodes share. `on_peer` is told of each node that has come in."""

    def __init__(
        self,
        book: PeerBook,
        handlers: PeerHandlers,
        log: structlog.stdlib.BoundLogger,
        on_peer: Callable[[PeerHello], None] = lambda _hello: None,
    ) -> None:
        self.book = book
        self.handlers = handlers
        self.log = log
        self.on_peer = on_peer
        self.buffers = Buffers(PEER_REQUEST_BYTES_MAX)
        self.numbers = count(1)
        handlers.on_request(AskFacts, self._facts)

    async def _facts(self, _c: PeerContext, _b: AskFacts, _p: memoryview) -> tuple[PeerFacts, Sequence[Chunk]]:
        return self.book.facts, ()


class PeerSession:
    """One connection of another node, from its hello to its end."""

    __slots__ = ("_connection", "_context", "_cutter", "_greeting", "_in_flight", "_nursery", "_peers", "_slot")

    def __init__(self, connection: Connection, peers: PeerServer) -> None:
        self._connection = connection
        self._peers = peers
        self._cutter = FrameCutter(NATIVE, FRAME_BYTES_MAX_UNGREETED, peers.buffers)
        self._context: PeerContext | None = None
        self._greeting: tuple[PeerHello, PeerHelloAnswer] | None = None
        self._in_flight = 0
        self._slot: trio.Event | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, nursery: trio.Nursery, scratch: bytearray, first: list[object]) -> None:
        """Serve until the node goes; `first` is the header of its hello. Raises `WireError`, `PeerRefused`."""
        self._nursery = nursery
        try:
            self._greet(*self._read(first))
            await FrameReader(self._connection, scratch, self._cutter, self._dispatch).run(b"")
        finally:
            self._forget()

    @staticmethod
    def _read(header: list[object]) -> tuple[int, object]:
        correlation, _, body = peer.read_request(header)
        return correlation, body

    # --- the handshake ------------------------------------------------------------------------------

    def _greet(self, correlation: int, body: object) -> None:
        book = self._peers.book
        if isinstance(body, PeerHello) and self._greeting is None:
            book.check_hello(body, self._connection.peer)
            answer = book.answer()
            self._greeting = body, answer
            self._answer(correlation, answer)
        elif isinstance(body, PeerProof) and self._greeting is not None:
            hello, answer = self._greeting
            who = f"node {hello.node_id} at {self._connection.peer}"
            book.check_proof(book.dialler_proof(hello, answer), body.proof, who)
            book.admit(hello, self._connection.peer)
            self._let_in(hello)
            self._answer(correlation, PeerProofAnswer(book.listener_proof(hello, answer), FRAME_BYTES_MAX))
            self._peers.on_peer(hello)
        else:
            raise WireError("a connection between nodes begins with PeerHello and PeerProof")

    def _let_in(self, hello: PeerHello) -> None:
        address = self._connection.peer
        self._context = PeerContext(hello.node_id, hello.directory_id, address, next(self._peers.numbers))
        self._cutter.frame_bytes_max = FRAME_BYTES_MAX
        self._peers.book.seen[hello.node_id] = Seen(hello.directory_id, address, self._is_alive, hello.life)

    def _is_alive(self) -> bool:
        silent_ms = (trio.current_time() - self._connection.last_heard) * 1000
        return not self._connection.closed and silent_ms < LINK_SILENCE_MS

    def _forget(self) -> None:
        """The connection has ended; a newer one of the same node may be there already."""
        seen, context = self._peers.book.seen, self._context
        mine = None if context is None else seen.get(context.node_id)
        if context is not None and mine is not None and mine.is_alive == self._is_alive:
            del seen[context.node_id]

    # --- requests -----------------------------------------------------------------------------------

    async def _dispatch(self, request: Frame) -> None:
        correlation, timeout_ms, body = peer.read_request(frame.read_header(request.header))
        if self._context is None:
            self._greet(correlation, body)
            request.release()
            return
        on_message = self._peers.handlers.messages.get(type(body))
        if on_message is not None:
            on_message(self._context, body, request.payload)
            request.release()
            return
        while self._in_flight >= REQUESTS_IN_FLIGHT_MAX:
            self._slot = trio.Event()
            await self._slot.wait()
        self._in_flight += 1
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, self._context, request, correlation, timeout_ms, body)

    async def _serve(
        self, context: PeerContext, request: Frame, correlation: int, timeout_ms: int, body: object
    ) -> None:
        try:
            handler = self._peers.handlers.requests.get(type(body))
            if handler is None:
                raise WireError(f"{type(body).__name__} is not served by this node")
            with trio.move_on_after(timeout_ms / 1000 if timeout_ms > 0 else FOREVER_S) as scope:
                answer, chunks = await handler(context, body, request.payload)
            if scope.cancelled_caught:
                return  # nobody waits any more
        except DduomqError as error:
            self._refuse(correlation, error)
        except Exception as error:
            self._peers.log.error("peer_request_failed", request=type(body).__name__, exc_info=error)
            self._refuse(correlation, UnknownServerError())
        else:
            size = sum(chunk.size if isinstance(chunk, FilePart) else len(chunk) for chunk in chunks)
            self._connection.send_parts([frame.write(peer.answer_header(correlation, answer), size), *chunks])
        finally:
            request.release()
            self._finished()

    def _refuse(self, correlation: int, error: DduomqError) -> None:
        self._connection.send(frame.write(peer.error_header(correlation, error.code, error.message)))

    def _finished(self) -> None:
        self._in_flight -= 1
        if self._slot is not None:
            self._slot.set()
            self._slot = None

    def _answer(self, correlation: int, body: object) -> None:
        self._connection.send(frame.write(peer.answer_header(correlation, body)))


FOREVER_S = 3_600.0
