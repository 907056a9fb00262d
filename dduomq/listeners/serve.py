"""The doors: accept connections, tell protocols apart by their first bytes, sweep out the silent.

Always true: a connection that breaks, or speaks nonsense, costs itself and one log line; never the node. Clients that
come while the node starts wait until it is ready.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio

from dduomq.actors.nursery import open_flat_nursery
from dduomq.errors import DduomqError
from dduomq.limits import HELLO_TIMEOUT_MS, SEND_STALL_TIMEOUT_MS
from dduomq.listeners.connection import Connection
from dduomq.listeners.kafka.session import KafkaSession
from dduomq.listeners.line import WORDS, LineSession
from dduomq.listeners.native import NativeSession
from dduomq.listeners.services import Services
from dduomq.ports import Listener, Stream
from dduomq.wire import frame, native

SNIFF_BYTES = len(frame.MAGIC)
SWEEP_INTERVAL_S = 5
ACCEPT_PAUSE_S = 0.05
KAFKA_FIRST = b"\x00"  # a request's length: below 16 MiB, so its first byte is zero
HTTP_WORDS = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC")
HTTP_HINT = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks dduomq's protocols, not HTTP.\n"
)
TLS_HINT = b"\x15\x03\x01\x00\x02\x02\x46"  # a TLS alert: protocol_version, fatal


class Server:
    """All connections of one node."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._connections: set[Connection] = set()
        self._log: structlog.stdlib.BoundLogger = services.log
        self.accepted = 0
        self.refused = 0

    @property
    def connections(self) -> int:
        return len(self._connections)

    def attach(self, stream: Stream, nursery: trio.Nursery) -> None:
        """Serve a connection that came by no listener."""
        nursery.start_soon(self._serve_one, stream, "in-process")

    async def serve(self, listener: Listener, name: str, nursery: trio.Nursery) -> None:
        """Accept until cancelled."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:  # out of descriptors, or the client was gone already
                self._log.warning("accept_failed", reason=str(error))
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            nursery.start_soon(self._serve_one, stream, name)

    async def _serve_one(self, stream: Stream, listener: str) -> None:
        self.accepted += 1
        try:
            if len(self._connections) >= self._services.connections_max:
                self.refused += 1
                self._log.warning("connection_refused", peer=stream.peer, reason="connections.max is reached")
                return
            async with self._open(stream) as (connection, nursery):
                await self._speak(connection, nursery, listener)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it broke while its tasks were being ended
        except Exception as error:  # whatever it was, the others have nothing to do with it
            self._log.error("connection_failed", peer=stream.peer, exc_info=error)
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    @asynccontextmanager
    async def _open(self, stream: Stream) -> AsyncIterator[tuple[Connection, trio.Nursery]]:
        connection = Connection(stream, trio.current_time())
        self._connections.add(connection)
        try:
            async with open_flat_nursery() as nursery:
                connection.bind(nursery.cancel_scope)
                nursery.start_soon(connection.write)
                try:
                    yield connection, nursery
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._connections.discard(connection)

    async def _speak(self, connection: Connection, nursery: trio.Nursery, listener: str) -> None:
        """Find out which protocol it is, then speak it. A protocol error ends it with one log line."""
        try:
            first = await self._sniff(connection)
            if not first.startswith(frame.MAGIC):
                await self._services.ready.wait()
            if first.startswith(frame.MAGIC):
                await NativeSession(connection, self._services, listener).run(nursery, first[SNIFF_BYTES:])
            elif first.startswith(KAFKA_FIRST) and len(first) == SNIFF_BYTES:
                await KafkaSession(connection, self._services, listener).run(first)
            elif first.startswith(WORDS):
                await LineSession(connection, self._services, listener).run(first)
            elif first.startswith(HTTP_WORDS):
                connection.send(HTTP_HINT)
            elif first.startswith(b"\x16\x03"):
                connection.send(TLS_HINT)
                self._log.info(
                    "connection_closed",
                    peer=connection.peer,
                    reason="TLS is not spoken on this listener",
                )
            elif first:
                self._log.warning(
                    "connection_closed",
                    peer=connection.peer,
                    reason="not a protocol spoken here",
                    first=first[:8].hex(),
                )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client is gone: nobody is left to be told
        except DduomqError as error:
            connection.send(frame.write(native.error_header(0, error.code, error.message)))
            self._log.warning("connection_closed", peer=connection.peer, reason=error.message)

    async def _sniff(self, connection: Connection) -> bytes:
        """The first bytes, as many as tell; empty when nothing came in time."""
        buffer = bytearray(SNIFF_BYTES)
        filled = 0
        with trio.move_on_after(HELLO_TIMEOUT_MS / 1000):
            while filled < SNIFF_BYTES:
                received = await connection.receive_into(memoryview(buffer)[filled:])
                if not received:
                    break
                filled += received
                if _is_line(bytes(buffer[:filled])):
                    break
        return bytes(buffer[:filled])

    async def sweep(self) -> None:
        """End connections that are silent for too long, or do not read their answers."""
        idle_s = self._services.connections_idle_ms / 1000
        while True:
            await trio.sleep(SWEEP_INTERVAL_S)
            now = trio.current_time()
            for connection in list(self._connections):
                if connection.is_behind:
                    if now - max(connection.last_sent, connection.behind_since) > SEND_STALL_TIMEOUT_MS / 1000:
                        self._end(connection, "does not read its answers")
                elif now > connection.frame_due:
                    self._end(connection, "a request came too slowly")
                elif now - connection.last_heard > idle_s:
                    self._end(connection, "silent for connections.idle.ms")

    def _end(self, connection: Connection, reason: str) -> None:
        self._log.info("connection_closed", peer=connection.peer, reason=reason)
        connection.end()


def _is_line(first: bytes) -> bool:
    """Whether a line that is shorter than the magic has ended."""
    return b"\n" in first and not frame.MAGIC.startswith(first[:4])
