"""The sending side of a client: what waits for each partition, and a lane to each node that leads some.

Always true: a record that was accepted ends in a result or an error by its delivery time-out; memory for waiting
records is bounded; when a partition gets another leader nothing goes there before the old one has answered, or its
time is over, so that order and sequences hold.
"""

from collections.abc import Awaitable, Callable, Generator
from random import Random
from typing import Any

import anyio
import anyio.abc
import attrs

from dduomq.client.accumulator import Batch, Item, PartitionQueue, seal
from dduomq.client.conn import Connection
from dduomq.client.lane import Lane
from dduomq.client.partitioners import Strategy, by_key
from dduomq.client.record import SendResult
from dduomq.client.wire import Wire
from dduomq.errors import DduomqError, OutcomeUnknown, UsageError, from_code
from dduomq.wire import native
from dduomq.wire.compress import Compression

TICK_S = 0.25
LOOKUP_S = 0.2


@attrs.frozen
class ProducerOptions:
    """Times in seconds, sizes in bytes. `acks`: 0 none, 1 the leader, -1 all in-sync replicas."""

    acks: int = -1
    idempotent: bool = True
    linger_s: float = 0.0
    batch_bytes: int = 1024 * 1024
    buffer_bytes: int = 32 * 1024 * 1024
    delivery_timeout_s: float = 30.0
    request_timeout_s: float = 3.0
    retry_backoff_s: float = 0.05
    retry_backoff_max_s: float = 1.0
    compression: Compression = Compression.NONE

    def check(self) -> None:
        """Raises `UsageError` for numbers that make no sense."""
        if self.linger_s < 0:
            raise UsageError(f"linger is 0 or more seconds, not {self.linger_s}")
        for name in ("batch_bytes", "buffer_bytes", "delivery_timeout_s", "request_timeout_s"):
            value = getattr(self, name)
            if value <= 0:
                raise UsageError(f"{name.removesuffix('_s')} must be more than 0, not {value}")


class Delivery:
    """A record under way: `await` it for its `SendResult`, or ask `done`."""

    __slots__ = ("_callback", "_event", "error", "item", "result")

    def __init__(self, callback: Callable[[SendResult | None, DduomqError | None], Any] | None = None) -> None:
        self._event: anyio.Event | None = None
        self._callback = callback
        self.result: SendResult | None = None
        self.error: DduomqError | None = None
        self.item: Item | None = None

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None

    def finish(self, result: SendResult | None, error: DduomqError | None) -> None:
        self.result, self.error = result, error
        if self._event is not None:
            self._event.set()
        if self._callback is not None:
            self._callback(result, error)

    async def wait(self) -> SendResult:
        """The result; raises the error that the delivery ended in."""
        if not self.done:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def __await__(self) -> Generator[Any, None, SendResult]:
        return self.wait().__await__()


class Producer:
    """Made by the client. `run` lives as long as it does, with a lane for each node that leads anything."""

    def __init__(
        self,
        options: ProducerOptions,
        *,
        wire: Wire,
        refresh: Callable[[str], Awaitable[native.TopicMetadata]],
        strategy: Strategy,
        rng: Random,
    ) -> None:
        self._options = options
        self._wire = wire
        self._refresh = refresh
        self._strategy = strategy
        self._rng = rng
        self._topics: dict[str, list[PartitionQueue]] = {}
        self._lanes: dict[int | None, Lane] = {}
        self._homes: dict[PartitionQueue, Lane] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._room: anyio.Event | None = None
        self._empty: anyio.Event | None = None
        self._waiting_bytes = 0
        self._closed: DduomqError | None = None
        self.acks = options.acks
        self.request_timeout_s = options.request_timeout_s
        self.linger_s = options.linger_s

    # --- taking records -----------------------------------------------------------------------------

    async def queues(self, topic: str) -> list[PartitionQueue]:
        """The queues of a topic's partitions; the topic is made on first use."""
        found = self._topics.get(topic)
        if found is None:
            metadata = await self._refresh(topic)
            found = self._topics.setdefault(topic, [])
            options, limit = self._options, metadata.max_message_bytes
            for at in range(len(found), len(metadata.partitions)):
                queue = PartitionQueue(topic, at, options.compression, options.batch_bytes, limit)
                found.append(queue)
                self._bring_home(queue)
        return found

    def choose(self, queues: list[PartitionQueue], key: bytes | None, partition: int | None) -> PartitionQueue:
        count = len(queues)
        if partition is not None:
            if not 0 <= partition < count:
                raise from_code(3, f"topic {queues[0].topic!r} has partitions 0 to {count - 1}, not {partition}")
            return queues[partition]
        if key is not None:
            return queues[by_key(key, count)]
        if count == 1:
            return queues[0]
        chosen = self._strategy(count, [queue.waiting_bytes for queue in queues])
        if not 0 <= chosen < count:
            raise UsageError(
                f"the partitioner chose {chosen}, topic {queues[0].topic!r} has partitions 0 to {count - 1}"
            )
        return queues[chosen]

    async def put(self, queue: PartitionQueue, item: Item) -> None:
        """Hand a record over; waits while the buffer is full."""
        await self._make_room(item.size)
        queue.add(item)
        self._changed(queue, item.size)

    async def put_batch(self, queue: PartitionQueue, batch: Batch) -> None:
        await self._make_room(len(batch.data))
        queue.add_batch(batch)
        self._changed(queue, len(batch.data))

    def deadline(self) -> float:
        return anyio.current_time() + self._options.delivery_timeout_s

    def seal(self, messages: list[Item]) -> Batch:
        return seal(messages, self._options.compression, messages[0].deadline)

    async def _make_room(self, size: int) -> None:
        """Wait until `size` more bytes fit; what is larger than the whole buffer may have it alone."""
        room = self._options.buffer_bytes
        while self._closed is None and self._waiting_bytes and self._waiting_bytes + size > room:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()
        if self._closed is not None:
            raise self._closed

    def _changed(self, queue: PartitionQueue, added: int) -> None:
        self._waiting_bytes += added
        lane = self._homes[queue]
        lane.active[queue] = None
        lane.wake()

    async def flush(self) -> None:
        """Wait until everything handed over has ended in a result or an error."""
        while any(lane.active for lane in self._lanes.values()):
            if self._empty is None:
                self._empty = anyio.Event()
            await self._empty.wait()

    # --- lanes --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled; then fail whatever still waits."""
        self._wire.on_routes[self.bring_all_home] = None
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for lane in self._lanes.values():
                    tasks.start_soon(lane.run)
                tasks.start_soon(self._tick)
        finally:
            del self._wire.on_routes[self.bring_all_home]
            self._closed = UsageError("this client is closed: its `with` block has ended")
            error = OutcomeUnknown("the client was closed before an answer came")
            for lane in self._lanes.values():
                lane.close(lambda queue: queue.fail_all(error))
            self.tidy()

    def bring_all_home(self) -> None:
        """Leaders may be others now."""
        for queue in list(self._homes):
            self._bring_home(queue)

    def settled(self, queue: PartitionQueue) -> None:
        """A queue that was held has one batch less under way."""
        self._bring_home(queue)

    def _bring_home(self, queue: PartitionQueue) -> None:
        """Let its batches go to its partition's leader; but nothing, while the old one has not answered."""
        leader = self._wire.routes.leader(queue.topic, queue.partition)
        lane = self._lane(None if leader is None else leader.node_id)
        before = self._homes.get(queue)
        queue.is_held = before is not None and before is not lane and queue.has_in_flight
        if before is lane or queue.is_held:
            return
        self._homes[queue] = lane
        queue.welcome()
        if before is not None and queue in before.active:
            del before.active[queue]
            lane.active[queue] = None
            lane.wake()

    def _lane(self, node_id: int | None) -> Lane:
        found = self._lanes.get(node_id)
        if found is None:
            found = self._lanes[node_id] = Lane(node_id, self)
            if self._tasks is not None:
                self._tasks.start_soon(found.run)
        return found

    # --- for the lanes ------------------------------------------------------------------------------

    def live(self, node_id: int) -> Connection | None:
        """The connection to a node, if there is one that works."""
        return self._wire.nodes.live(node_id)

    async def reach(self, node_id: int) -> Connection:
        """The same, made if need be. Raises `NetworkError`."""
        return await self._wire.nodes.node(node_id)

    def doubt(self, topic: str) -> None:
        """Who leads it is to be looked up again."""
        self._wire.doubt(topic)

    @property
    def lookup_s(self) -> float:
        """So long nobody is asked again who may lead no more: meanwhile it is known who does."""
        return LOOKUP_S if self._wire.routes.is_cluster else 0.0

    def identify(self, queue: PartitionQueue) -> None:
        """A producer identity for a partition is wanted, or a new epoch of it."""
        queue.needs_epoch = False
        if self._options.idempotent and self._options.acks:
            queue.not_before = float("inf")
            assert self._tasks is not None
            self._tasks.start_soon(self._identify, queue)

    async def _identify(self, queue: PartitionQueue) -> None:
        timeout_ms = int(self._options.request_timeout_s * 1000)
        try:
            body, _ = await self._wire.ask(native.InitProducer(*queue.identity), timeout_ms)
            given = native.from_plain(native.ProducerIdentity, body)
            queue.identify(given.producer_id, given.producer_epoch)
            queue.not_before = 0.0
        except DduomqError as error:
            queue.needs_epoch = True
            queue.not_before = 0.0
            queue.hinder(error, anyio.current_time() + self.backoff(1))
        self._homes[queue].wake()

    async def _tick(self) -> None:
        """Back-offs, delivery times and requests without an answer: looked at every `TICK_S`."""
        while True:
            await anyio.sleep(TICK_S)
            now = anyio.current_time()
            for lane in list(self._lanes.values()):
                lane.look_at_the_clock(now)
            self.tidy()

    def backoff(self, retries: int) -> float:
        """Exponential with jitter: between half of the pause and the whole."""
        options = self._options
        pause = min(options.retry_backoff_s * 2 ** min(retries - 1, 16), options.retry_backoff_max_s)
        return float(pause * (0.5 + self._rng.random() / 2))

    def tidy(self) -> None:
        """Forget the queues that are done; tell who waits for room or for the end."""
        waiting, is_empty = 0, True
        for lane in self._lanes.values():
            for queue in [queue for queue in lane.active if queue.is_empty]:
                del lane.active[queue]
            waiting += sum(queue.waiting_bytes for queue in lane.active)
            is_empty = is_empty and not lane.active
        self._waiting_bytes = waiting
        if self._room is not None and waiting < self._options.buffer_bytes:
            self._room.set()
            self._room = None
        if self._empty is not None and is_empty:
            self._empty.set()
            self._empty = None
