"""A client's connections: one to each node that it needs, made when it is needed, made again when it has broken.

Always true: there is one connection to a node at most, and one attempt to make it, however many wait for that; a node
that does not answer is tried again with growing pauses; who asks for any node gets one that answers, if there is one.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Final

import anyio

from dduomq.client.conn import BROKEN, Connection, Dial
from dduomq.client.routing import HostPort, Routes
from dduomq.client.tasks import Background
from dduomq.errors import DduomqError, NetworkError, OutcomeUnknown, UsageError
from dduomq.wire import native

HURRY_S = 3.0  # so long one node is waited for while there are others
PAUSE_S, PAUSE_MAX_S = 0.05, 1.0
WATCH_S = 5.0
PING_MS = 5_000
ANY: Final = -1  # of the attempts to reach any node; nodes have other numbers


class _Attempt:
    """To make a connection; for all who wait for it."""

    __slots__ = ("connection", "done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.connection: Connection | None = None
        self.error: Exception | None = None


class Nodes:
    """`addresses` are those to begin with; where else nodes are reached stands in `routes`."""

    def __init__(self, addresses: list[HostPort], client_id: str, dial: Dial, routes: Routes) -> None:
        self._addresses = addresses
        self._client_id = client_id
        self._dial = dial
        self._routes = routes
        self._live: dict[int, Connection] = {}
        self._steady: Connection | None = None  # the one that everything goes to that any node answers
        self._reached: dict[int, HostPort] = {}  # where nodes have answered, whatever they say of themselves
        self._attempts: dict[tuple[int, ...], _Attempt] = {}
        self._pauses: dict[int, tuple[float, float]] = {}  # when a node may be tried again, and the pause behind that
        self._failed_at: dict[HostPort, float] = {}
        self.is_closed = False
        self.tasks: Background | None = None

    # --- asking for one -----------------------------------------------------------------------------

    def live(self, node_id: int) -> Connection | None:
        """The connection to a node if there is one that works."""
        found = self._live.get(node_id)
        return found if found is not None and found.broken is None else None

    async def node(self, node_id: int) -> Connection:
        """The connection to this node. Raises `NetworkError`."""
        found = self.live(node_id)
        if found is not None:
            return found
        return await self._together((node_id,), partial(self._reach, node_id))

    async def any(self, without: Collection[int] = ()) -> Connection:
        """A connection to any node but these. Raises `NetworkError` that says what to do when nobody answers."""
        steady = self._steady
        if steady is not None and self._is_fit(steady, without):
            return steady
        for found in self._live.values():
            if self._is_fit(found, without):
                self._steady = found
                return found
        try:
            return await self._together((ANY, *sorted(without)), partial(self._reach_any, without))
        except NetworkError:
            for node_id, found in self._live.items():
                if found.broken is None and node_id not in without:
                    return found  # it has been silent, but nobody else is there
            raise

    def _is_fit(self, connection: Connection, without: Collection[int]) -> bool:
        """Works, and is not one that another should be asked instead of, where there is another."""
        is_silent = connection.is_silent and self._has_others
        return connection.broken is None and not is_silent and connection.node_id not in without

    @property
    def _has_others(self) -> bool:
        return self._routes.is_cluster or len(self._addresses) > 1

    # --- making one ---------------------------------------------------------------------------------

    async def _together(self, key: tuple[int, ...], make: Callable[[], Awaitable[Connection]]) -> Connection:
        """What `make` gives; who comes while it is at work shares its end."""
        if self.is_closed:
            raise UsageError("this client is closed: its `with` block has ended")
        attempt = self._attempts.get(key)
        if attempt is None:
            assert self.tasks is not None
            attempt = self._attempts[key] = _Attempt()
            self.tasks.start_soon(self._try, key, attempt, make)
        await attempt.done.wait()
        if attempt.connection is not None:
            return attempt.connection
        if isinstance(attempt.error, NetworkError):
            raise NetworkError(attempt.error.message)
        raise attempt.error or UsageError("this client is closed: its `with` block has ended")

    async def _try(self, key: tuple[int, ...], attempt: _Attempt, make: Callable[[], Awaitable[Connection]]) -> None:
        try:
            attempt.connection = await make()
        except Exception as error:  # it is raised where the connection is waited for
            attempt.error = error
        finally:
            self._attempts.pop(key, None)
            attempt.done.set()

    def close(self) -> None:
        """No connection is made from now on, and nobody waits for one."""
        self.is_closed = True
        for attempt in self._attempts.values():
            attempt.done.set()

    async def _reach(self, node_id: int) -> Connection:
        not_before, pause = self._pauses.get(node_id, (0.0, PAUSE_S))
        await anyio.sleep(max(0.0, not_before - anyio.current_time()))
        places = (self._reached.get(node_id), self._routes.nodes.get(node_id))
        try:
            return await self._first_that_answers(
                dict.fromkeys(place for place in places if place is not None), lambda found: found.node_id == node_id
            )
        except NetworkError:
            if self._routes.is_cluster:
                self._reached.pop(node_id, None)  # it may be elsewhere now, as it says itself
            longer = min(pause * 2, PAUSE_MAX_S) if self._routes.is_cluster else PAUSE_S  # else all hope is in this one
            self._pauses[node_id] = anyio.current_time() + pause, longer
            raise

    async def _reach_any(self, without: Collection[int]) -> Connection:
        known, reached = self._routes.nodes, self._reached
        closed = {at for node_id in without for at in (known.get(node_id), reached.get(node_id)) if at is not None}
        places = [at for at in dict.fromkeys((*self._addresses, *known.values())) if at not in closed]
        places.sort(key=lambda at: self._failed_at.get(at, -1.0))  # those that have failed lately come last
        self._steady = await self._first_that_answers(places, lambda found: found.node_id not in without)
        return self._steady

    async def _first_that_answers(
        self, places: Iterable[HostPort], is_wanted: Callable[[Connection], bool]
    ) -> Connection:  # fmt: skip
        failures = []
        hurry = HURRY_S if self._has_others else None
        for host, port in places:
            try:
                with anyio.fail_after(hurry):
                    found = await self._open(host, port)
            except (*BROKEN, TimeoutError, NetworkError, OutcomeUnknown) as error:
                self._failed_at[host, port] = anyio.current_time()
                failures.append(f"{host}:{port} ({_reason(error)})")
                continue
            self._failed_at.pop((host, port), None)
            if is_wanted(found):
                return found
            failures.append(f"{host}:{port} (that is node {found.node_id} now)")
        if not failures:
            raise NetworkError("no other node is known that could answer")
        raise NetworkError(
            f"nobody answers at {', '.join(failures)}; is the node running? start one with: trio-run dduomq.node --id 1"
        )

    async def _open(self, host: str, port: int) -> Connection:
        """Raises what dialling raises, `NetworkError`, `OutcomeUnknown`, and what the node refuses."""
        assert self.tasks is not None
        connection = Connection(await self._dial(host, port), f"{host}:{port}")
        self.tasks.start_soon(connection.run)
        try:
            hello: native.HelloAnswer = await connection.greet(self._client_id)
        except BaseException:
            connection.end(NetworkError(f"the connection to {host}:{port} was given up"))
            raise
        held = self.live(hello.node_id)
        self._reached[hello.node_id] = (host, port)
        self._pauses.pop(hello.node_id, None)
        if held is not None and not held.is_silent:
            connection.end(NetworkError("there is a connection to this node already"))
            return held
        self._live[hello.node_id] = connection
        if held is not None:
            held.end(OutcomeUnknown("the node was silent, and is spoken to by another connection now"))
        return connection

    # --- looking after them -------------------------------------------------------------------------

    async def watch(self) -> None:
        """For ever: end connections to nodes of which nothing is heard though they should answer.

        Where there is one node only, everybody waits for that, as long as the network lets them.
        """
        before: dict[Connection, int] = {}
        while True:
            await anyio.sleep(WATCH_S)
            waiting = [one for one in self._live.values() if one.broken is None and one.is_waiting]
            quiet = [one for one in waiting if before.get(one) == one.heard]
            before = {one: one.heard for one in waiting}
            if quiet and self._routes.is_cluster:
                async with anyio.create_task_group() as pings:
                    for connection in quiet:
                        pings.start_soon(self._ping, connection)

    async def _ping(self, connection: Connection) -> None:
        try:
            await connection.ask(native.Metadata(()), PING_MS)
        except OutcomeUnknown:
            connection.end(NetworkError(f"{connection.address} gives no sign of life"))
        except DduomqError:
            return  # it is broken, or alive


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error.__cause__, BaseException) and not isinstance(error.__cause__, BaseExceptionGroup):
        return _reason(error.__cause__)
    return str(error) or type(error).__name__
