"""The sending side of a client: one task that makes requests of whatever waits.

Always true: a request carries at most one batch of a partition; batches of many partitions share one; a record
that was accepted ends in a result or an error by its delivery time-out; memory for waiting records is bounded.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from random import Random
from typing import Any, Protocol, TypeAlias

import anyio
import anyio.abc
import attrs

from dduomq.client.accumulator import Batch, Item, PartitionQueue, seal
from dduomq.client.conn import Pending
from dduomq.client.partitioners import Strategy, by_key
from dduomq.client.record import SendResult
from dduomq.errors import DduomqError, OutcomeUnknown, UsageError, from_code
from dduomq.ports import Buffer
from dduomq.wire import native
from dduomq.wire.compress import Compression

REQUEST_BYTES_MAX = 8 * 1024 * 1024
TICK_S = 0.25


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


Batches: TypeAlias = list[tuple[PartitionQueue, Batch]]


class Wire(Protocol):
    """How the producer reaches the broker: the client's connection, made again when it breaks."""

    async def ask(self, body: object, timeout_ms: int) -> tuple[Any, memoryview]: ...

    async def post(self, body: object, timeout_ms: int, payload: Sequence[Buffer] = ()) -> Pending: ...

    async def tell(self, body: object, timeout_ms: int, payload: Sequence[Buffer]) -> None: ...


class Producer:
    """Made by the client. `run` is its one task."""

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
        self._active: dict[PartitionQueue, None] = {}
        self._wake = anyio.Event()
        self._room: anyio.Event | None = None
        self._empty: anyio.Event | None = None
        self._waiting_bytes = 0
        self._outstanding: dict[Pending, tuple[Batches, float]] = {}
        self._closed: DduomqError | None = None

    # --- taking records -----------------------------------------------------------------------------

    async def queues(self, topic: str) -> list[PartitionQueue]:
        """The queues of a topic's partitions; the topic is made on first use."""
        found = self._topics.get(topic)
        if found is None:
            metadata = await self._refresh(topic)
            found = self._topics.setdefault(topic, [])
            options, limit = self._options, metadata.max_message_bytes
            for at in range(len(found), len(metadata.partitions)):
                found.append(PartitionQueue(topic, at, options.compression, options.batch_bytes, limit))
        return found

    def forget(self, topic: str) -> None:
        """Look the topic up again at its next record."""
        self._topics.pop(topic, None)

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
        self._active[queue] = None
        self._wake.set()

    async def flush(self) -> None:
        """Wait until everything handed over has ended in a result or an error."""
        while self._active:
            if self._empty is None:
                self._empty = anyio.Event()
            await self._empty.wait()

    # --- sending ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled; then fail whatever still waits."""
        try:
            async with anyio.create_task_group() as requests:
                requests.start_soon(self._tick)
                while True:
                    await self._wake.wait()
                    self._wake = anyio.Event()
                    if self._options.linger_s:
                        await anyio.sleep(self._options.linger_s)
                    await self._send_what_waits(requests)
        finally:
            self._closed = UsageError("this client is closed: its `with` block has ended")
            for queue in list(self._active):
                queue.fail_all(OutcomeUnknown("the client was closed before an answer came"))
            self._active.clear()
            self._tidy()

    async def _send_what_waits(self, requests: anyio.abc.TaskGroup) -> None:
        """Requests leave one after another, so that a partition's batches arrive in their order."""
        now = anyio.current_time()
        for queue in list(self._active):
            queue.expire(now)
            if queue.may_identify:
                queue.needs_epoch = False
                if self._options.idempotent and self._options.acks:
                    queue.not_before = float("inf")
                    requests.start_soon(self._identify, queue)
        while batches := self._take_batches(now):
            await self._post_one(batches)
        self._tidy()

    def _take_batches(self, now: float) -> Batches:
        """At most one batch of each queue, as many as a request may carry."""
        batches: Batches = []
        size = 0
        for queue in self._active:
            if size >= REQUEST_BYTES_MAX:
                break
            batch = queue.next_batch(now)
            if batch is not None:
                batches.append((queue, batch))
                size += len(batch.data)
        return batches

    async def _post_one(self, batches: Batches) -> None:
        parts = tuple(native.ProducePart(queue.topic, queue.partition, len(b.data)) for queue, b in batches)
        body = native.Produce(self._options.acks, parts)
        timeout_ms = int(self._options.request_timeout_s * 1000)
        payload = [batch.data for _, batch in batches]
        try:
            if self._options.acks:
                pending = await self._wire.post(body, timeout_ms, payload)
                self._outstanding[pending] = (batches, anyio.current_time() + self._options.request_timeout_s)
                pending.call(partial(self._settle, pending))
                return
            await self._wire.tell(body, timeout_ms, payload)
        except DduomqError as error:
            self._fail(batches, error)
            return
        for queue, batch in batches:
            queue.succeeded(batch, native.ProducedPart(0, None, -1, -1, -1, "none"))

    async def _identify(self, queue: PartitionQueue) -> None:
        """Get a producer identity for a partition, or a new epoch of it."""
        timeout_ms = int(self._options.request_timeout_s * 1000)
        try:
            body, _ = await self._wire.ask(native.InitProducer(*queue.identity), timeout_ms)
            given = native.from_plain(native.ProducerIdentity, body)
            queue.identify(given.producer_id, given.producer_epoch)
            queue.not_before = 0.0
        except DduomqError:
            queue.needs_epoch = True
            queue.not_before = anyio.current_time() + self._backoff(1)
        self._wake.set()

    async def _tick(self) -> None:
        """Back-offs, delivery times and requests without an answer: looked at every `TICK_S`."""
        while True:
            await anyio.sleep(TICK_S)
            now = anyio.current_time()
            for pending, (batches, deadline) in list(self._outstanding.items()):
                if deadline <= now:
                    del self._outstanding[pending]
                    pending.forget()
                    self._fail(batches, OutcomeUnknown("the broker gave no answer in the request's time"))
            if self._active:
                self._wake.set()

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
        self._wake.set()
        self._tidy()

    def _fail(self, batches: Batches, error: DduomqError) -> None:
        now = anyio.current_time()
        for queue, batch in batches:
            queue.failed(batch, error, now, self._backoff(batch.retries + 1))
        self._wake.set()
        self._tidy()

    def _backoff(self, retries: int) -> float:
        """Exponential with jitter: between half of the pause and the whole."""
        options = self._options
        pause = min(options.retry_backoff_s * 2 ** min(retries - 1, 16), options.retry_backoff_max_s)
        return float(pause * (0.5 + self._rng.random() / 2))

    def _tidy(self) -> None:
        """Forget the queues that are done; tell who waits for room or for the end."""
        for queue in [queue for queue in self._active if queue.is_empty]:
            del self._active[queue]
        self._waiting_bytes = sum(queue.waiting_bytes for queue in self._active)
        if self._room is not None and self._waiting_bytes < self._options.buffer_bytes:
            self._room.set()
            self._room = None
        if self._empty is not None and not self._active:
            self._empty.set()
            self._empty = None
