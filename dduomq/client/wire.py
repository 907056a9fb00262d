"""The way to the broker: each request to the node that it belongs to, and to another one when that has changed.

Always true: a request that was carried out, or may have been, is said again by itself only if that does nothing more;
everything that any node answers goes on as long as one of them lives.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.abc

from dduomq.client.conn import Connection, Dial, Pending
from dduomq.client.nodes import Nodes
from dduomq.client.routing import (
    COORDINATOR_IN_DOUBT,
    IDEMPOTENT,
    LEADER_IN_DOUBT,
    MAYBE_CARRIED_OUT,
    MISROUTED,
    NOT_CARRIED_OUT,
    PASSING,
    Anywhere,
    KeptBy,
    LedBy,
    Routes,
    Spot,
    join_answers,
    places_of,
    spot_of,
    take_parts,
    trouble_in,
)
from dduomq.client.tasks import Background
from dduomq.errors import (
    DduomqError,
    LeaderNotAvailable,
    NetworkError,
    UsageError,
)
from dduomq.limits import CLIENT_COORDINATORS_MAX
from dduomq.ports import Buffer
from dduomq.wire import native
from dduomq.wire.native_routes import CoordinatorFound, FindCoordinator

DEFAULT_PORT = 6086
LOOKUP_MS = 5_000
REFRESH_S = 300.0
AGAIN_S, AGAIN_MAX_S = 0.1, 1.0
TRY_MS = 5_000  # what one node is given, beyond what it was asked to wait, when another may know better


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
    """All nodes, as one. `on_routes`: what to call when a leader is another one."""

    def __init__(self, addresses: list[tuple[str, int]], client_id: str, dial: Dial) -> None:
        self._addresses = addresses
        self.routes = Routes()
        self.nodes = Nodes(addresses, client_id, dial, self.routes)
        self.on_routes: dict[Callable[[], object], None] = {}
        self._coordinators: dict[KeptBy, int] = {}
        self._looking_up = anyio.Lock()
        self._doubted = anyio.Event()

    @property
    def tasks(self) -> Background | None:
        return self.nodes.tasks

    @tasks.setter
    def tasks(self, tasks: Background) -> None:
        self.nodes.tasks = tasks

    def close(self) -> None:
        """No connection is made from now on."""
        self.nodes.close()

    async def start(self) -> None:
        """Reach a node. Raises `NetworkError` that says what to do when nobody answers."""
        await self.connection()
        assert self.tasks is not None
        self.tasks.start_soon(self._keep_routes)
        self.tasks.start_soon(self.nodes.watch)

    # --- asking -------------------------------------------------------------------------------------

    async def connection(self) -> Connection:
        """To any node. Raises `NetworkError`."""
        return await self.nodes.any()

    async def ask(self, body: object, timeout_ms: int) -> tuple[Any, memoryview]:
        """(the answer's plain body, its payload), from where the request belongs, or belongs by now.

        Raises the broker's error, `NetworkError` if nothing was carried out, `OutcomeUnknown`.
        """
        return await self._ask(body, timeout_ms, surely=False)

    async def ask_surely(self, body: object, timeout_ms: int) -> tuple[Any, memoryview]:
        """The same; while the nodes of a cluster agree on who leads what, it is said again until its time is over."""
        return await self._ask(body, timeout_ms, surely=True)

    async def post(self, body: object, timeout_ms: int, payload: Sequence[Buffer] = ()) -> Pending:
        """Send a request to where it belongs; its answer is awaited apart."""
        spot, connection = spot_of(body), None
        try:
            connection = await self._way(spot)
            pending = await connection.post(body, timeout_ms, payload)
        except DduomqError as error:
            self.heard(spot, error, connection)
            raise
        pending.on_error = partial(self._heard_late, spot, connection)
        return pending

    async def reconnect(self) -> None:
        """Make the connection anew if it has broken; a broker that is still away is not an error here."""
        with suppress(NetworkError):
            await self.connection()

    async def leader(self, topic: str, partition: int) -> Connection:
        """To the partition's leader. Raises `NetworkError`, `LeaderNotAvailable`."""
        return await self._way(LedBy(topic, partition))

    async def by_leader(self, topic: str, partitions: Sequence[int]) -> dict[int, list[int]]:
        """Which of the partitions each node leads; those that nobody does, or nobody knows of, stand under -1."""
        found: dict[int, list[int]] = {}
        for partition in partitions:
            with suppress(NetworkError):
                await self._look_up(topic, partition)
            leader = self.routes.leader(topic, partition)
            found.setdefault(-1 if leader is None else leader.node_id, []).append(partition)
        return found

    def heard(self, spot: Spot, error: DduomqError, connection: Connection | None) -> None:
        """What a request has met may mean that its place is elsewhere now."""
        if isinstance(spot, LedBy):
            if isinstance(error, LEADER_IN_DOUBT):
                self.doubt(spot.topic)
        elif isinstance(spot, KeptBy) and isinstance(error, COORDINATOR_IN_DOUBT):
            is_known = connection is None or self._coordinators.get(spot) == connection.node_id
            if is_known:  # else somebody has found another one meanwhile
                self._coordinators.pop(spot, None)

    def _heard_late(self, spot: Spot, connection: Connection, error: DduomqError) -> None:
        self.heard(spot, error, connection)

    def doubt(self, topic: str) -> None:
        """Its leaders are looked up again soon, and before it is asked for again."""
        self.routes.doubt(topic)
        self._doubted.set()

    # --- inside -------------------------------------------------------------------------------------

    async def _ask(self, body: object, timeout_ms: int, *, surely: bool) -> tuple[Any, memoryview]:
        spot = spot_of(body)
        if isinstance(spot, Anywhere):
            return await (self._ask_any_surely if surely else self._ask_any)(body, timeout_ms)
        places = places_of(body)
        if len(places) > 1:
            nodes = await self._divide(places)
            if len(nodes) > 1:
                return await self._ask_parts(body, nodes, timeout_ms, surely=surely)
        return await self._ask_at(spot, body, timeout_ms, surely=surely)

    async def _ask_any_surely(self, body: object, timeout_ms: int) -> tuple[Any, memoryview]:
        """While the nodes that live are choosing who keeps the metadata, nothing is carried out: that is waited for."""
        deadline, pause = anyio.current_time() + timeout_ms / 1000, AGAIN_S
        while True:
            try:
                return await self._ask_any(body, max(1, round((deadline - anyio.current_time()) * 1000)))
            except NOT_CARRIED_OUT:
                if anyio.current_time() + pause >= deadline:
                    raise
            await anyio.sleep(pause)
            pause = min(pause * 2, AGAIN_MAX_S)

    async def _ask_any(self, body: object, timeout_ms: int) -> tuple[Any, memoryview]:
        deadline = anyio.current_time() + timeout_ms / 1000
        tried: dict[int, None] = {}
        connection = await self.nodes.any()
        while True:
            tried[connection.node_id] = None
            patience_ms = max(1, round((deadline - anyio.current_time()) * 1000))
            if len(tried) < len(self.routes.nodes) and type(body) in IDEMPOTENT:
                patience_ms = min(patience_ms, TRY_MS)
            try:
                plain, payload = await connection.ask(body, patience_ms)
            except DduomqError as error:
                if anyio.current_time() >= deadline or not _may_be_said_again(body, error):
                    raise
                try:
                    connection = await self.nodes.any(tried)
                except NetworkError:
                    raise error from None
                continue
            if isinstance(body, native.Metadata):
                self._learn(body, plain)
            return plain, payload

    async def _ask_at(
        self, spot: Spot, body: object, timeout_ms: int, *, surely: bool
    ) -> tuple[Any, memoryview]:  # fmt: skip
        deadline = anyio.current_time() + timeout_ms / 1000
        tries, pause = 0, AGAIN_S
        while True:
            connection, answer = None, None
            try:
                connection = await self._way(spot)
                answer = await connection.ask(body, self._patience_ms(body, deadline, tries, surely=surely))
                error = trouble_in(body, answer[0])
                if error is None:
                    return answer
            except DduomqError as raised:
                error = raised
            self.heard(spot, error, connection)
            tries += 1
            if not self._is_worth_another_try(body, error, tries, deadline, surely=surely):
                if answer is not None:
                    return answer
                raise error
            if tries > 1:
                await anyio.sleep(pause)
                pause = min(pause * 2, AGAIN_MAX_S)

    def _patience_ms(self, body: object, deadline: float, tries: int, *, surely: bool) -> int:
        """How long one node may take; one that is gone without a word must not have all the time there is."""
        left: int = max(1, round((deadline - anyio.current_time()) * 1000))
        if surely and self.routes.is_cluster and type(body) in IDEMPOTENT:
            waits: int = getattr(body, "max_wait_ms", 0) or getattr(body, "wait_ms", 0)
            left = min(left, waits + TRY_MS * (1 << tries))
        return left  # a broker that is slow, or waits for something, is given its time

    def _is_worth_another_try(
        self, body: object, error: DduomqError, tries: int, deadline: float, *, surely: bool
    ) -> bool:  # fmt: skip
        if anyio.current_time() >= deadline:
            return False
        if isinstance(error, MISROUTED):
            return surely or tries == 1
        if not surely or not self.routes.is_cluster:
            return False
        if isinstance(error, PASSING):
            return True
        return isinstance(error, MAYBE_CARRIED_OUT) and type(body) in IDEMPOTENT

    async def _way(self, spot: Spot) -> Connection:
        if isinstance(spot, LedBy):
            await self._look_up(spot.topic, spot.partition)
            leader = self.routes.leader(spot.topic, spot.partition)
            if leader is not None:
                return await self.nodes.node(leader.node_id)
            if self.routes.knows(spot.topic, spot.partition):
                self.doubt(spot.topic)
                raise LeaderNotAvailable(f"{spot.topic}-{spot.partition} has no leader just now; try again")
        elif isinstance(spot, KeptBy):
            return await self.nodes.node(await self._coordinator(spot))
        return await self.nodes.any()

    async def _coordinator(self, spot: KeptBy) -> int:
        node_id = self._coordinators.get(spot)
        if node_id is None:
            plain, _ = await self._ask_any(FindCoordinator(spot.kind, spot.key), LOOKUP_MS)
            found = native.from_plain(CoordinatorFound, plain)
            self.routes.learn_node(found.node_id, found.host, found.port)
            node_id = self._coordinators[spot] = found.node_id
            if len(self._coordinators) > CLIENT_COORDINATORS_MAX:
                del self._coordinators[next(iter(self._coordinators))]
        return node_id

    # --- who leads what -----------------------------------------------------------------------------

    async def _look_up(self, topic: str, partition: int) -> None:
        """Know the partition's leader, if it has one; what is in doubt is looked up by one of those who need it."""
        if not self._is_unsure(topic, partition):
            return
        async with self._looking_up:
            if self._is_unsure(topic, partition):
                await self._refresh((topic,))

    def _is_unsure(self, topic: str, partition: int) -> bool:
        return topic in self.routes.doubtful or not self.routes.knows(topic, partition)

    async def _refresh(self, topics: Sequence[str]) -> None:
        names = tuple(dict.fromkeys((*topics, *self.routes.doubtful)))
        self.routes.doubtful.clear()
        try:
            await self._ask_any(native.Metadata(names), LOOKUP_MS)
        except BaseException:
            for name in names:
                self.doubt(name)
            raise

    def _learn(self, body: native.Metadata, plain: Any) -> None:
        """Topics that somebody asked for by name are remembered; of a list of all, the nodes."""
        version, answer = self.routes.version, native.from_plain(native.MetadataAnswer, plain)
        for name in body.topics or ():
            self.routes.doubtful.pop(name, None)
        if body.topics is None:
            answer = native.MetadataAnswer(answer.cluster_id, answer.controller, answer.nodes, ())
        self.routes.learn(answer)
        if self.routes.version != version:
            for tell in list(self.on_routes):
                tell()

    async def _keep_routes(self) -> None:
        """For ever: learn of the nodes, look up what is in doubt, and everything now and then."""
        pause = AGAIN_S
        while True:
            self._doubted = anyio.Event()
            async with self._looking_up:
                try:
                    await self._refresh(tuple(self.routes.doubtful) or self.routes.topics())
                    pause = AGAIN_S
                except DduomqError:
                    pause = min(pause * 2, AGAIN_MAX_S)
            await anyio.sleep(pause)
            with anyio.move_on_after(REFRESH_S):
                await self._doubted.wait()

    # --- requests of many partitions ----------------------------------------------------------------

    async def _divide(self, places: Sequence[tuple[str, int]]) -> dict[int, list[int]]:
        """The positions of the places that each node leads."""
        found: dict[int, list[int]] = {}
        for at, place in enumerate(places):
            await self._look_up(*place)
            leader = self.routes.leader(*place)
            found.setdefault(-1 if leader is None else leader.node_id, []).append(at)
        return found

    async def _ask_parts(
        self, body: object, nodes: dict[int, list[int]], timeout_ms: int, *, surely: bool
    ) -> tuple[Any, memoryview]:
        answers = []
        for positions in nodes.values():
            part = take_parts(body, positions)
            plain, _ = await self._ask_at(spot_of(part), part, timeout_ms, surely=surely)
            answers.append((positions, plain))
        return join_answers(sum(map(len, nodes.values())), answers), memoryview(b"")


def _may_be_said_again(body: object, error: DduomqError) -> bool:
    """Whether another node may be asked: nothing was carried out, or nothing more would be."""
    if isinstance(error, (NetworkError, *NOT_CARRIED_OUT)):
        return True
    return isinstance(error, MAYBE_CARRIED_OUT) and type(body) in IDEMPOTENT
