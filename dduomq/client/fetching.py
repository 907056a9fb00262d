"""Fetches of one topic's partitions, one under way at each node that leads some of them.

Always true: whoever asks gets what has come from any node, and does not wait for the others; their fetches stay under
way, and what they bring is for the next one who asks.
"""

from collections.abc import Callable, Sequence
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
Make: TypeAlias = Callable[[Sequence[int]], native.Fetch]


@attrs.frozen
class Came:
    """A fetch's end: what it asked for, and its answer or its error."""

    parts: tuple[native.FetchPart, ...]
    fetched: native.Fetched | None
    payload: memoryview
    error: DduomqError | None


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
        ended: list[Came] = []
        until = anyio.current_time() + make(()).max_wait_ms / 1000 + SLACK_S
        for node_id, some in nodes.items():
            if node_id not in self._under_way:
                failed = await self._post(node_id, make(some))
                if failed is not None:
                    ended.append(failed)
        while not ended:
            self._came = anyio.Event()
            answered = [node_id for node_id, asked in self._under_way.items() if asked.pending.is_answered]
            ended = [self._take(node_id) for node_id in answered]
            if not ended:
                with anyio.move_on_after(min(until, self._first_deadline()) - anyio.current_time()):
                    await self._came.wait()
                ended = self._late(anyio.current_time())
            if not ended and anyio.current_time() >= until:
                break  # what is under way was asked for by somebody with more time
        return ended

    async def _ask(self, body: native.Fetch) -> Came:
        try:
            plain, payload = await self._wire.ask(body, body.max_wait_ms + GRACE_MS)
            return Came(body.parts, native.from_plain(native.Fetched, plain), payload, None)
        except DduomqError as error:
            return Came(body.parts, None, memoryview(b""), error)

    async def _post(self, node_id: int, body: native.Fetch) -> Came | None:
        timeout_ms = body.max_wait_ms + GRACE_MS
        try:
            pending = await self._wire.post(body, timeout_ms)
        except DduomqError as error:
            return Came(body.parts, None, memoryview(b""), error)
        self._under_way[node_id] = _Asked(body, pending, anyio.current_time() + timeout_ms / 1000)
        pending.call(lambda: self._came.set())
        return None

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
