"""Fetches of one topic's partitions, one under way at each node that leads some of them.

Always true: whoever asks gets what has come from any node, and does not wait for the others; their fetches stay under
way, and what they bring is for the next one who asks, if that is still what is wanted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import anyio
import attrs

from dduomq.client.conn import Pending
from dduomq.client.routing import LedBy, trouble_in
from dduomq.client.wire import Wire
from dduomq.errors import DduomqError
from dduomq.wire import native

GRACE_MS = 10_000
SLACK_S = 0.5
AWAY_S = 0.1
Make: TypeAlias = Callable[[Sequence[int]], native.Fetch]


@attrs.frozen
class Came:
    """A fetch's end: what it asked for, and its answer or its error."""

    parts: tuple[native.FetchPart, ...]
    fetched: native.Fetched | None
    payload: memoryview
    error: DduomqError | None

    @property
    def is_news(self) -> bool:
        """Whether it says anything but that there is nothing."""
        return self.fetched is None or any(part.code or part.size for part in self.fetched.parts)


@attrs.frozen
class _Asked:
    body: native.Fetch
    pending: Pending
    deadline: float


class Fetching:
    """Of one reader."""

    def __init__(self, wire: Wire, topic: str) -> None:
        self._wire = wire
        self._topic = topic
        self._under_way: dict[int, _Asked] = {}
        self._came = anyio.Event()

    async def next(self, partitions: Sequence[int], make: Make) -> list[Came]:
        """What has come, as soon as anything has; [] if nothing has for as long as the request may wait, and a little.

        `make(partitions)` is the request for those of one node.
        """
        nodes = await self._wire.by_leader(self._topic, partitions)
        if len(nodes) == 1 and not self._under_way:
            return [await self._ask(make(partitions))]
        wanted = {node_id: make(some) for node_id, some in nodes.items()}
        self._abandon_others(wanted)
        until = anyio.current_time() + make(()).max_wait_ms / 1000 + SLACK_S
        before = set(self._under_way)  # these may wait less long than the asker would
        ended: list[Came] = []
        while not ended and anyio.current_time() < until:
            for node_id in sorted(wanted, key=self._is_away):
                if node_id not in self._under_way:
                    before.discard(node_id)
                    ended += await self._post(node_id, wanted[node_id])
            self._came = anyio.Event()
            answered = [node_id for node_id, asked in self._under_way.items() if asked.pending.is_answered]
            taken = {node_id: self._take(node_id) for node_id in answered}
            ended += [came for node_id, came in taken.items() if node_id not in before or came.is_news]
            if not ended and not taken:
                with anyio.move_on_after(min(until, self._first_deadline()) - anyio.current_time()):
                    await self._came.wait()
                ended = self._late(anyio.current_time())
        return ended

    def _abandon_others(self, wanted: Mapping[int, native.Fetch]) -> None:
        """Forget fetches that ask for something else than is wanted: there was a seek, a pause, or another leader."""
        for node_id, asked in list(self._under_way.items()):
            if node_id not in wanted or _asks_for(wanted[node_id]) != _asks_for(asked.body):
                asked.pending.forget()
                del self._under_way[node_id]

    async def _ask(self, body: native.Fetch) -> Came:
        try:
            plain, payload = await self._wire.ask(body, body.max_wait_ms + GRACE_MS)
            return Came(body.parts, native.from_plain(native.Fetched, plain), payload, None)
        except DduomqError as error:
            return Came(body.parts, None, memoryview(b""), error)

    async def _post(self, node_id: int, body: native.Fetch) -> list[Came]:
        """[], or its end, if that has come already; a node that is away must not hold up what others bring."""
        timeout_ms = body.max_wait_ms + GRACE_MS
        pending: Pending | None = None
        try:
            with anyio.move_on_after(AWAY_S if self._under_way and self._is_away(node_id) else None):
                pending = await self._wire.post(body, timeout_ms)
        except DduomqError as error:
            return [Came(body.parts, None, memoryview(b""), error)]
        if pending is None:
            return []
        self._under_way[node_id] = _Asked(body, pending, anyio.current_time() + timeout_ms / 1000)
        pending.call(lambda: self._came.set())
        return []

    def _is_away(self, node_id: int) -> bool:
        return self._wire.nodes.live(node_id) is None

    def _take(self, node_id: int) -> Came:
        """The answer of a fetch that has one."""
        asked = self._under_way.pop(node_id)
        parts = asked.body.parts
        asked.pending.forget()
        try:
            plain, payload = asked.pending.answer()
            fetched = native.from_plain(native.Fetched, plain)
        except DduomqError as error:
            return Came(parts, None, memoryview(b""), error)
        trouble = trouble_in(asked.body, plain)
        if trouble is not None:
            self._wire.heard(LedBy(self._topic, parts[0].partition), trouble, None)
        return Came(parts, fetched, payload, None)

    def _first_deadline(self) -> float:
        return min(asked.deadline for asked in self._under_way.values())

    def _late(self, now: float) -> list[Came]:
        ended = []
        for node_id, asked in list(self._under_way.items()):
            if asked.deadline <= now and not asked.pending.is_answered:
                del self._under_way[node_id]
                error = asked.pending.late(f"node {node_id} gave no answer")
                ended.append(Came(asked.body.parts, None, memoryview(b""), error))
        return ended


def _asks_for(body: native.Fetch) -> set[tuple[int, int]]:
    return {(part.partition, part.offset) for part in body.parts}
