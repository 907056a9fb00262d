"""`connect`: the client, under trio and asyncio.

    async with dduomq.connect("localhost:6086") as mq:
        await mq.send("orders", {"total": 5}, key="c42")

Always true: leaving the block sends what waits, then ends every task the client has started.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random, SystemRandom
from time import time_ns
from typing import Any

import anyio
import anyio.abc
import attrs

from dduomq.client.accumulator import Item, PartitionQueue
from dduomq.client.admin import Admin
from dduomq.client.conn import Dial, dial_tcp
from dduomq.client.interceptor import Interceptor
from dduomq.client.partitioners import Strategy, named
from dduomq.client.producer import Delivery, Producer, ProducerOptions
from dduomq.client.reading import ReadingClient
from dduomq.client.record import Message, SendResult, headers_of
from dduomq.client.serializers import AUTO, Serializer
from dduomq.client.tasks import Background, flat_tasks
from dduomq.client.wire import DEFAULT_PORT, Wire, parse_addresses
from dduomq.errors import DduomqError, UsageError
from dduomq.wire.compress import parse as parse_compression

CLOSE_TIMEOUT_S = 30


class Client(ReadingClient):
    """Made by `connect`."""

    def __init__(
        self,
        wire: Wire,
        options: ProducerOptions,
        *,
        strategy: Strategy,
        serializer: Serializer,
        interceptors: Sequence[Interceptor],
        auto_create: bool,
        rng: Random,
        wall_ms: Callable[[], int],
    ) -> None:
        super().__init__(
            wire, serializer=serializer, interceptors=interceptors, auto_create=auto_create,
            timeout_ms=int(options.delivery_timeout_s * 1000), rng=rng, wall_ms=wall_ms,
        )  # fmt: skip
        self._strategy = strategy
        self._options = options
        self._producer = self._make_producer(options)
        self._oneway: Producer | None = None
        self.admin = Admin(wire.ask_surely, wall_ms)

    def _make_producer(self, options: ProducerOptions) -> Producer:
        return Producer(options, wire=self._wire, refresh=self._topic, strategy=self._strategy, rng=self._rng)

    def start(self) -> None:
        assert self._wire.tasks is not None
        self._wire.tasks.start_soon(self._producer.run)

    # --- sending ------------------------------------------------------------------------------------

    async def send(self, topic: str, value: Any, **fields: Any) -> SendResult:
        """Send one record and await its ack.

        Fields: key, headers, tag, keys, partition, timestamp_ms, sharding_key; delay (seconds or a timedelta) or
        deliver_at (a datetime or milliseconds) for one that comes later; ttl (seconds or a timedelta): so long it is
        worth the work. When cancelled, a record that is in no request yet is withdrawn; else it may still be stored.
        """
        delivery, queue = await self._hand_over(self._producer, topic, value, fields, None)
        try:
            return await delivery.wait()
        except anyio.get_cancelled_exc_class():
            if delivery.item is not None:
                queue.withdraw(delivery.item)
            raise

    async def send_async(
        self,
        topic: str,
        value: Any,
        *,
        callback: Callable[[SendResult | None, DduomqError | None], Any] | None = None,
        **fields: Any,
    ) -> Delivery:
        """Hand a record over, waiting only for room; await the `Delivery`, or be called back."""
        delivery, _ = await self._hand_over(self._producer, topic, value, fields, callback)
        return delivery

    async def send_oneway(self, topic: str, value: Any, **fields: Any) -> None:
        """Send without any ack: fastest, and nobody will know if it is lost."""
        if self._oneway is None:
            self._oneway = self._make_producer(_oneway_options(self._options))
            assert self._wire.tasks is not None
            self._wire.tasks.start_soon(self._oneway.run)
        await self._hand_over(self._oneway, topic, value, fields, None)

    async def send_batch(
        self, topic: str, values: Sequence[Any], *, key: Any = None, partition: int | None = None
    ) -> SendResult:
        """Send many records as one batch to one partition: all are stored or none.

        `values` may hold `Message`s. The result has the first record's offset and the count.
        """
        if not values:
            raise UsageError("send_batch needs at least one value")
        queues = await self._producer.queues(topic)
        queue = self._producer.choose(queues, self._key(key), partition)
        deadline, now = self._producer.deadline(), self._wall_ms()
        delivery = Delivery()
        messages = [
            self._before_send(topic, value if isinstance(value, Message) else Message(value)) for value in values
        ]
        items = [self._item(message, now, deadline, None) for message in messages]
        items[0].on_done = delivery.finish
        await self._producer.put_batch(queue, self._producer.seal(items))
        result = await delivery.wait()
        return attrs.evolve(result, count=len(items))

    async def flush(self) -> None:
        """Wait until everything handed over has ended in a result or an error."""
        await self._producer.flush()
        if self._oneway is not None:
            await self._oneway.flush()

    async def _hand_over(
        self,
        producer: Producer,
        topic: str,
        value: Any,
        fields: Mapping[str, Any],
        callback: Callable[[SendResult | None, DduomqError | None], Any] | None,
    ) -> tuple[Delivery, PartitionQueue]:
        partition = fields.get("partition")
        known = {name: content for name, content in fields.items() if name != "partition"}
        if known and isinstance(value, Message):
            raise UsageError(f"a Message has fields of its own; give {', '.join(known)} to it")
        message = value if isinstance(value, Message) else Message(value, **known)
        message = self._before_send(topic, message)
        queues = await producer.queues(topic)
        sharding = message.sharding_key if message.sharding_key is not None else message.key
        queue = producer.choose(queues, self._key(sharding), partition)
        delivery = Delivery(self._after_send(topic, message, callback))
        item = self._item(message, self._wall_ms(), producer.deadline(), delivery.finish)
        delivery.item = item
        await producer.put(queue, item)
        return delivery, queue

    def _before_send(self, topic: str, message: Message) -> Message:
        for interceptor in self._interceptors:
            message = interceptor.before_send(topic, message)
        return message

    def _after_send(
        self, topic: str, message: Message, callback: Callable[[SendResult | None, DduomqError | None], Any] | None
    ) -> Callable[[SendResult | None, DduomqError | None], Any] | None:
        """What to call at the end; an error raised in there ends the client, but only after its neighbours' ends."""
        if not self._interceptors and callback is None:
            return None

        def done(result: SendResult | None, error: DduomqError | None) -> None:
            try:
                for interceptor in self._interceptors:
                    interceptor.after_send(topic, message, result, error)
                if callback is not None:
                    callback(result, error)
            except Exception as raised:
                assert self._wire.tasks is not None
                self._wire.tasks.fail(raised)

        return done

    def _item(self, message: Message, now_ms: int, deadline: float, on_done: Any) -> Item:
        timestamp = now_ms if message.timestamp_ms is None else message.timestamp_ms
        value = self._serializer.dumps(message.value)
        return Item(timestamp, self._key(message.key), value, headers_of(message), deadline, on_done)

    def _key(self, key: Any) -> bytes | None:
        return None if key is None else AUTO.dumps(key if isinstance(key, bytes | str) else str(key))


def _oneway_options(options: ProducerOptions) -> ProducerOptions:
    return attrs.evolve(options, acks=0)


@asynccontextmanager
async def connect(
    address: str = f"localhost:{DEFAULT_PORT}",
    *,
    client_id: str = "dduomq-python",
    serializer: Serializer = AUTO,
    partitioner: str | Strategy = "sticky",
    interceptors: Sequence[Interceptor] = (),
    acks: int | str = "all",
    idempotent: bool = True,
    linger: float = 0.0,
    batch_bytes: int = 1024 * 1024,
    buffer_bytes: int = 32 * 1024 * 1024,
    delivery_timeout: float = 30.0,
    request_timeout: float = 3.0,
    compression: str = "none",
    auto_create: bool = True,
    dial: Dial = dial_tcp,
    rng: Random | None = None,
    wall_ms: Callable[[], int] = lambda: time_ns() // 1_000_000,
) -> AsyncIterator[Client]:
    """A client of the node, or the cluster, at `address`. Times are seconds, sizes bytes.

    `address`: of one node, or of several with commas between them: any that answers tells of the others, so that one
    that is down then, or later, is not missed.

    Leaving the block awaits what was handed over. Raises `NetworkError` when nobody answers, `UsageError` for
    arguments that make no sense.
    """
    chance = rng or SystemRandom()
    options = ProducerOptions(
        acks=_acks(acks),
        idempotent=idempotent,
        linger_s=linger,
        batch_bytes=batch_bytes,
        buffer_bytes=buffer_bytes,
        delivery_timeout_s=delivery_timeout,
        request_timeout_s=request_timeout,
        compression=parse_compression(compression),
    )
    options.check()
    wire = Wire(parse_addresses(address), client_id, dial)
    client = Client(
        wire,
        options,
        strategy=named(partitioner, chance),
        serializer=serializer,
        interceptors=interceptors,
        auto_create=auto_create,
        rng=chance,
        wall_ms=wall_ms,
    )
    async with flat_tasks() as tasks:
        wire.tasks = background = Background(tasks)
        try:
            await wire.start()
            client.start()
            yield client
            with anyio.move_on_after(CLOSE_TIMEOUT_S):
                await client.flush()
        finally:
            wire.close()
            background.end()


def _acks(acks: int | str) -> int:
    known = {"all": -1, -1: -1, 0: 0, 1: 1, "0": 0, "1": 1}
    if acks not in known:
        raise UsageError(f"acks is 0, 1 or 'all', not {acks!r}")
    return known[acks]
