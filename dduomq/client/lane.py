"""What a producer sends to one node: one task that makes requests of whatever waits for it.

Always true: a request carries at most one batch of a partition; batches of many partitions share one; requests leave
one after another, so that a partition's batches arrive in their order; a node that is away holds up only what is its.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

import anyio

from dduomq.client.accumulator import Batch, PartitionQueue
from dduomq.client.conn import Connection, Pending
from dduomq.client.routing import LEADER_IN_DOUBT
from dduomq.errors import DduomqError, LeaderNotAvailable, from_code
from dduomq.wire import native

REQUEST_BYTES_MAX = 8 * 1024 * 1024
Batches: TypeAlias = list[tuple[PartitionQueue, Batch]]


class Owner(Protocol):
    """The producer, as its lanes see it."""

    acks: int
    request_timeout_s: float
    linger_s: float

    @property
    def lookup_s(self) -> float: ...

    def identify(self, queue: PartitionQueue) -> None: ...

    def backoff(self, retries: int) -> float: ...

    def doubt(self, topic: str) -> None: ...

    def settled(self, queue: PartitionQueue) -> None: ...

    def tidy(self) -> None: ...

    def live(self, node_id: int) -> Connection | None: ...

    async def reach(self, node_id: int) -> Connection: ...


class Lane:
    """`node_id` None: of partitions that nobody leads just now; there everything waits."""

    def __init__(self, node_id: int | None, owner: Owner) -> None:
        self.node_id = node_id
        self._owner = owner
        self._wake = anyio.Event()
        self._outstanding: dict[Pending, tuple[Batches, float]] = {}
        self.active: dict[PartitionQueue, None] = {}

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    async def run(self) -> None:
        """For ever: send."""
        linger_s = self._owner.linger_s
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            if linger_s:
                await anyio.sleep(linger_s)
            await self._send_what_waits()

    async def _send_what_waits(self) -> None:
        now = anyio.current_time()
        for queue in list(self.active):
            queue.expire(now)
            if queue.may_identify:
                self._owner.identify(queue)
        if self.node_id is None:
            self._wait_for_leaders(now)
        else:
            while (connection := await self._connection(self.node_id, now)) and (batches := self._take_batches(now)):
                await self._post_one(connection, batches)
        self._owner.tidy()

    def _wait_for_leaders(self, now: float) -> None:
        for queue in self.active:
            error = LeaderNotAvailable(f"{queue.topic}-{queue.partition} has no leader just now")
            queue.hinder(error, now)
            self._owner.doubt(queue.topic)

    async def _connection(self, node_id: int, now: float) -> Connection | None:
        """To the node, if there is anything to send; None if it is away, or there is nothing."""
        found = self._owner.live(node_id)
        if found is not None or not any(queue.may_send(now) for queue in self.active):
            return found
        try:
            return await self._owner.reach(node_id)
        except DduomqError as error:
            until = anyio.current_time() + self._owner.backoff(1)
            for queue in self.active:
                queue.hinder(error, until)
                self._owner.doubt(queue.topic)
            return None

    def _take_batches(self, now: float) -> Batches:
        """At most one batch of each queue, as many as a request may carry."""
        batches: Batches = []
        size = 0
        for queue in self.active:
            if size >= REQUEST_BYTES_MAX:
                break
            batch = queue.next_batch(now)
            if batch is not None:
                batches.append((queue, batch))
                size += len(batch.data)
        return batches

    async def _post_one(self, connection: Connection, batches: Batches) -> None:
        owner = self._owner
        parts = tuple(native.ProducePart(queue.topic, queue.partition, len(b.data)) for queue, b in batches)
        body = native.Produce(owner.acks, parts)
        timeout_ms = int(owner.request_timeout_s * 1000)
        payload = [batch.data for _, batch in batches]
        try:
            if owner.acks:
                pending = await connection.post(body, timeout_ms, payload)
                self._outstanding[pending] = (batches, anyio.current_time() + owner.request_timeout_s)
                pending.call(partial(self._settle, pending))
                return
            await connection.tell(body, timeout_ms, payload)
        except DduomqError as error:
            self._fail(batches, error)
            return
        for queue, batch in batches:
            queue.succeeded(batch, native.ProducedPart(0, None, -1, -1, -1, "none"))
            self._left(queue)

    # --- answers ------------------------------------------------------------------------------------

    def look_at_the_clock(self, now: float) -> None:
        """Requests without an answer, and records whose time is over."""
        for pending, (batches, deadline) in list(self._outstanding.items()):
            if deadline <= now:
                del self._outstanding[pending]
                self._fail(batches, pending.late("the broker gave no answer in the request's time"))
        for queue in self.active:
            queue.expire(now)
        if self.active:
            self.wake()

    def _settle(self, pending: Pending) -> None:
        """Hand a request's answer to its batches."""
        batches, _ = self._outstanding.pop(pending)
        pending.forget()
        try:
            plain, _ = pending.answer()
            answers = native.from_plain(native.Produced, plain).parts
        except DduomqError as error:
            self._fail(batches, error)
            return
        for (queue, batch), answer in zip(batches, answers, strict=True):
            if answer.code:
                self._fail([(queue, batch)], from_code(answer.code, answer.message or ""))
            else:
                queue.succeeded(batch, answer)
                self._left(queue)
        self.wake()
        self._owner.tidy()

    def _fail(self, batches: Batches, error: DduomqError) -> None:
        now = anyio.current_time()
        for queue, batch in batches:
            pause = self._owner.backoff(batch.retries + 1)
            if isinstance(error, LEADER_IN_DOUBT):
                self._owner.doubt(queue.topic)
                pause = max(pause, self._owner.lookup_s)
            queue.failed(batch, error, now, pause)
            self._left(queue)
        self.wake()
        self._owner.tidy()

    def _left(self, queue: PartitionQueue) -> None:
        """A batch is under way no more: a queue that is to go to another node may be free for that."""
        if queue.is_held:
            self._owner.settled(queue)

    def close(self, tell: Callable[[PartitionQueue], object]) -> None:
        """Nothing is sent any more."""
        for queue in list(self.active):
            tell(queue)
        self.active.clear()
        self._outstanding.clear()
