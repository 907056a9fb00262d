"""The way to the broker: its addresses, and a connection that is made again when it has broken."""

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc

from dduomq.client.conn import BROKEN, Connection, Dial, Pending
from dduomq.client.tasks import Background
from dduomq.errors import NetworkError, UsageError
from dduomq.ports import Buffer
from dduomq.wire import native

DEFAULT_PORT = 6086


def parse_addresses(text: str) -> list[tuple[str, int]]:
    """`host:port,host:port`; the port may be left out, IPv6 stands in brackets. Raises `UsageError`."""
    found = []
    for item in text.split(","):
        host, colon, port = item.strip().rpartition(":")
        if not colon or (item.strip().startswith("[") and item.strip().endswith("]")):
            host, port = item.strip(), str(DEFAULT_PORT)
        if not host or not port.isdigit():
            raise UsageError(f"an address is written HOST:PORT, like localhost:{DEFAULT_PORT}, not {item!r}")
        found.append((host.removeprefix("[").removesuffix("]"), int(port)))
    return found


class Wire:
    """The connection to the broker; made again when it has broken."""

    def __init__(self, addresses: list[tuple[str, int]], client_id: str, dial: Dial) -> None:
        self._addresses = addresses
        self._client_id = client_id
        self._dial = dial
        self._connection: Connection | None = None
        self._lock = anyio.Lock()
        self.is_closed = False
        self.tasks: Background | None = None
        self.server: native.HelloAnswer | None = None

    async def connection(self) -> Connection:
        """Raises `NetworkError` that says what to do when nobody answers."""
        if self._connection is not None and self._connection.broken is None:
            return self._connection
        async with self._lock:
            if self._connection is None or self._connection.broken is not None:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> Connection:
        if self.is_closed:
            raise UsageError("this client is closed: its `with` block has ended")
        assert self.tasks is not None
        failures = []
        for host, port in self._addresses:
            try:
                connection = Connection(await self._dial(host, port), f"{host}:{port}")
                self.tasks.start_soon(connection.run)
                self.server = await connection.greet(self._client_id)
            except (*BROKEN, TimeoutError) as error:
                failures.append(f"{host}:{port} ({_reason(error)})")
                continue
            return connection
        raise NetworkError(
            f"nobody answers at {', '.join(failures)}; is the node running? start one with: trio-run dduomq.node --id 1"
        )

    async def ask(self, body: object, timeout_ms: int) -> tuple[Any, memoryview]:
        return await (await self.connection()).ask(body, timeout_ms)

    async def post(self, body: object, timeout_ms: int, payload: Sequence[Buffer] = ()) -> Pending:
        return await (await self.connection()).post(body, timeout_ms, payload)

    async def tell(self, body: object, timeout_ms: int, payload: Sequence[Buffer]) -> None:
        await (await self.connection()).tell(body, timeout_ms, payload)

    async def reconnect(self) -> None:
        """Make the connection anew if it has broken; a broker that is still away is not an error here."""
        try:
            await self.connection()
        except NetworkError:
            return


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error.__cause__, BaseException) and not isinstance(error.__cause__, BaseExceptionGroup):
        return _reason(error.__cause__)
    return str(error) or type(error).__name__
