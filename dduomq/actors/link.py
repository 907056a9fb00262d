"""The ways to the other nodes: one connection to each, dialled by this node, on which requests are pipelined.

Answers come back in any order and are told apart by number. What the other node asks of this one comes on a connection
of its own, to the listener (`dduomq/listeners/peer.py`).

Always true: a request ends in an answer, in the error that the other node gave, or in `PeerUnavailable`; nothing waits
for a connection that is not there; a connection on which nothing comes for `LINK_SILENCE_MS` is given up; the pause
between two tries is drawn by chance and never longer than `LINK_BACKOFF_MS_MAX`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import attrs
import structlog
import trio

from dduomq.actors.actor import Reply
from dduomq.actors.link_frames import FramesIn, FramesOut, join
from dduomq.cluster.handshake import PeerBook, PeerRefused
from dduomq.cluster.ports import PeerNotReached, PeerUnavailable
from dduomq.errors import DduomqError, UnsupportedVersion, from_code
from dduomq.limits import (
    LINK_ADDRESSES_MAX,
    LINK_BACKOFF_MS,
    LINK_BACKOFF_MS_MAX,
    LINK_DIAL_TIMEOUT_MS,
    LINK_PING_MS,
    LINK_REQUESTS_MAX,
    LINK_SILENCE_MS,
    LINKS_MAX,
)
from dduomq.ports import Buffer, Network, Rng, Stream
from dduomq.wire import frame, peer
from dduomq.wire.peer_hello import PeerHello, PeerHelloAnswer, PeerProof, PeerProofAnswer, Ping

StartSoon = Callable[..., Any]
ENDINGS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, DduomqError)


@attrs.frozen
class LinkWorld:
    """What all links of a node share. `book` says who this node is."""

    network: Network
    rng: Rng
    book: PeerBook
    log: structlog.stdlib.BoundLogger


class _Connection:
    """One connection that both sides have proved themselves on."""

    __slots__ = ("heard_at", "numbers", "outgoing", "pending")

    def __init__(self, outgoing: FramesOut) -> None:
        self.outgoing = outgoing
        self.pending: dict[int, tuple[type, Reply[tuple[Any, memoryview]]]] = {}
        self.numbers = count(1)
        self.heard_at = trio.current_time()

    def answered(self, header: list[object], payload: memoryview) -> None:
        """Raises `WireError`."""
        self.heard_at = trio.current_time()
        number, code, message, plain = peer.read_answer(header)
        if not number:
            raise from_code(code, message)  # the other node ends the connection, and says why
        kind, reply = self.pending.pop(number, (None, None))
        if kind is None or reply is None:
            return  # whoever asked has given up
        try:
            if code:
                raise from_code(code, message)
            body = peer.read_body(kind, plain)
        except DduomqError as error:
            reply.fail(error)
        else:
            reply.set((body, payload))


class Link:
    """The way to one node; a `dduomq.cluster.ports.PeerLink`."""

    __slots__ = (
        "_addresses",
        "_connection",
        "_dialled",
        "_moved",
        "_reason",
        "_world",
        "directory_id",
        "node_id",
        "refusal",
    )

    def __init__(self, world: LinkWorld, node_id: int, address: tuple[str, int]) -> None:
        self._world = world
        self._addresses = [address]  # the newest first
        self._dialled = 0
        self._connection: _Connection | None = None
        self._moved = trio.Event()
        self._reason = "it has not been reached yet"
        self.node_id = node_id
        self.refusal = ""  # why one of the two nodes does not speak with the other; empty for other troubles
        self.directory_id = ""  # what the other node has said when it was reached last

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    @property
    def address(self) -> tuple[str, int]:
        """Where the node is said to be."""
        return self._addresses[0]

    @property
    def reason(self) -> str:
        """Why it is down, in a few words."""
        return self._reason

    def move(self, host: str, port: int) -> None:
        """The node is said to be there: it is dialled there next, and where it was known to be if it is not there.

        Who says so may know less than this node: a connection that is up, whose other end has proved who it is, stays.
        """
        if self._addresses[0] != (host, port):
            others = [address for address in self._addresses if address != (host, port)]
            self._addresses = [(host, port), *others][:LINK_ADDRESSES_MAX]
            self._dialled = 0
            self._moved.set()

    async def request(
        self, body: object, payload: Sequence[Buffer] = (), *, timeout_s: float
    ) -> tuple[Any, memoryview]:
        """The answer and its payload. Raises the error that the other node gave, or `PeerUnavailable`; `PeerNotReached`
        when nothing was sent.

        The payload is a view of the frame as it was received; it stays as long as somebody holds it.
        """
        connection = self._connection
        if connection is None:
            raise PeerNotReached(f"node {self.node_id} can't be reached: {self._reason}")
        if len(connection.pending) >= LINK_REQUESTS_MAX:
            raise PeerNotReached(f"{LINK_REQUESTS_MAX} requests to node {self.node_id} are under way already")
        number = next(connection.numbers)
        reply: Reply[tuple[Any, memoryview]] = Reply()
        connection.pending[number] = (type(body), reply)
        try:
            header = peer.request_header(number, max(1, int(timeout_s * 1000)), body)
            if not connection.outgoing.put_request(join(header, payload)):
                raise PeerNotReached(f"too much waits to be sent to node {self.node_id}")
            with trio.fail_after(timeout_s):
                return await reply.wait()
        except trio.TooSlowError:
            raise PeerUnavailable(f"node {self.node_id} gave no answer for {timeout_s:g} s") from None
        finally:
            connection.pending.pop(number, None)

    def send(self, body: object, payload: Sequence[Buffer] = ()) -> bool:
        """One way; False if the link is down. What waits too long behind others may be dropped later."""
        if self._connection is None:
            return False
        self._connection.outgoing.put_message(join(peer.request_header(0, 0, body), payload))
        return True

    # --- the connection -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Dial, and dial again, until cancelled."""
        pause_ms, told = LINK_BACKOFF_MS, ""
        while True:
            self._moved = trio.Event()
            try:
                await self._live()
            except ENDINGS as error:
                self._reason = str(error) or "it did not answer in time"
                self.refusal = self._reason if isinstance(error, PeerRefused | UnsupportedVersion) else ""
            if self._is_lost():
                pause_ms = LINK_BACKOFF_MS
            elif told != self._reason:
                self._world.log.warning("peer_unreachable", node=self.node_id, reason=self._reason)
            told = self._reason
            with trio.move_on_after(self._world.rng.uniform(pause_ms / 2, pause_ms) / 1000):
                await self._moved.wait()
            pause_ms = min(pause_ms * 2, LINK_BACKOFF_MS_MAX)

    def _is_lost(self) -> bool:
        """Whether there was a connection: who waited for an answer on it is told."""
        connection, self._connection = self._connection, None
        if connection is None:
            return False
        self._world.log.info("peer_lost", node=self.node_id, reason=self._reason)
        for _, reply in list(connection.pending.values()):
            reply.fail(PeerUnavailable(f"the connection to node {self.node_id} broke: {self._reason}"))
        connection.pending.clear()
        return True

    async def _live(self) -> None:
        """One connection, from dialling to its end. Raises why it ended."""
        with trio.fail_after(LINK_DIAL_TIMEOUT_MS / 1000):
            stream = await self._world.network.dial(*self._next_address())
        try:
            await self._use(stream)
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async def _use(self, stream: Stream) -> None:
        """Several tasks, of which the first that ends ends all; its reason is raised."""
        incoming, outgoing = FramesIn(stream), FramesOut(stream)
        reasons: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def live(run: Callable[[], Awaitable[None]]) -> None:
                try:
                    await run()
                except ENDINGS as error:
                    reasons.append(error)
                nursery.cancel_scope.cancel()

            async def converse() -> None:
                with trio.fail_after(LINK_DIAL_TIMEOUT_MS / 1000):
                    await self._greet(stream, incoming, outgoing)
                connection = self._connection = _Connection(outgoing)
                self.refusal = ""
                self._dialled -= 1  # this is the right one
                self._world.log.info("peer_reached", node=self.node_id)
                nursery.start_soon(live, partial(self._watch, connection))
                while True:
                    connection.answered(*await incoming.next())

            nursery.start_soon(live, outgoing.write)
            nursery.start_soon(live, converse)
        raise reasons[0] if reasons else trio.BrokenResourceError("the connection has ended")

    def _next_address(self) -> tuple[str, int]:
        """One after the other, until one is the right one."""
        address = self._addresses[self._dialled % len(self._addresses)]
        self._dialled += 1
        return address

    async def _greet(self, stream: Stream, incoming: FramesIn, outgoing: FramesOut) -> None:
        """The four words of `handshake.py`. Raises `PeerRefused` and what the other side refuses with."""
        book = self._world.book
        hello = book.hello(self.node_id)
        answer: PeerHelloAnswer = await self._say(incoming, outgoing, hello)
        book.check_answer(answer, self.node_id)
        done: PeerProofAnswer = await self._say(incoming, outgoing, PeerProof(book.dialler_proof(hello, answer)))
        who = f"node {self.node_id} at {stream.peer}"
        book.check_proof(book.listener_proof(hello, answer), done.proof, who)
        book.check_listener(answer)
        incoming.bytes_max = done.frame_bytes_max
        self.directory_id = answer.directory_id

    async def _say(self, incoming: FramesIn, outgoing: FramesOut, body: PeerHello | PeerProof) -> Any:
        first: list[Buffer] = [frame.MAGIC] if isinstance(body, PeerHello) else []
        outgoing.put_request([*first, *join(peer.request_header(0, 0, body), ())])
        header, _ = await incoming.next()
        _, code, message, plain = peer.read_answer(header)
        if code:
            raise from_code(code, message)
        return peer.read_body(type(body), plain)

    async def _watch(self, connection: _Connection) -> None:
        """Ask whether the other side still stands when nothing comes from it. Raises `trio.BrokenResourceError`."""
        while True:
            await trio.sleep(LINK_PING_MS / 1000)
            silent_ms = (trio.current_time() - connection.heard_at) * 1000
            if silent_ms >= LINK_SILENCE_MS:
                raise trio.BrokenResourceError(f"nothing has come from it for {silent_ms / 1000:.1f} s")
            if silent_ms >= LINK_PING_MS / 2:
                connection.outgoing.put_request(join(peer.request_header(next(connection.numbers), 0, Ping()), ()))


class Links:
    """All links of a node; a `dduomq.cluster.ports.PeerLinks`.

    `addresses` has the other nodes of `--peers`; what the metadata or a node itself says later comes by `learn`.
    """

    def __init__(self, world: LinkWorld, addresses: Mapping[int, tuple[str, int]]) -> None:
        self._world = world
        self._start_soon: StartSoon | None = None
        own = world.book.node_id
        self._links = {node: Link(world, node, addresses[node]) for node in sorted(addresses) if node != own}

    @property
    def own(self) -> int:
        """The number of this node."""
        return self._world.book.node_id

    @property
    def nodes(self) -> tuple[int, ...]:
        """The numbers of all other nodes that are known."""
        return tuple(sorted(self._links))

    def start(self, start_soon: StartSoon) -> None:
        """Begin to dial. Everything that the hellos say must be in the book by now."""
        self._start_soon = start_soon
        for link in self._links.values():
            start_soon(link.run, name=f"link {link.node_id}")

    def link(self, node_id: int) -> Link:
        """Raises `PeerNotReached` for a node that nobody knows."""
        found = self._links.get(node_id)
        if found is None:
            raise PeerNotReached(f"nobody knows where node {node_id} is; is it in --peers, and running?")
        return found

    def learn(self, node_id: int, host: str, port: int) -> None:
        """Where a node is to be dialled from now on."""
        if node_id == self._world.book.node_id or not host or not port:
            return
        if node_id in self._links:
            self._links[node_id].move(host, port)
        elif len(self._links) < LINKS_MAX:
            link = self._links[node_id] = Link(self._world, node_id, (host, port))
            if self._start_soon is not None:
                self._start_soon(link.run, name=f"link {node_id}")
