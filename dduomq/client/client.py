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

from dduomq.client.accumulator import Item, PartitionQueue
from dduomq.client.admin import Admin
from dduomq.client.conn import BROKEN, Connection, Dial, Pending, dial_tcp
from dduomq.client.consumer import Decoder, Reader, Start, find_offset
from dduomq.client.partitioners import Strategy, named
from dduomq.client.producer import Delivery, Producer, ProducerOptions
from dduomq.client.record import Message, Record, SendResult, headers_of
from dduomq.client.serializers import AUTO, Serializer
from dduomq.errors import DduomqError, NetworkError, UsageError, from_code
from dduomq.ports import Buffer
from dduomq.wire import native
from dduomq.wire.compress import parse as parse_compression

DEFAULT_PORT = 6086
CLOSE_TIMEOUT_S = 30


class Interceptor:
    """Hooks around sending and consuming; override what is wanted. An error raised here reaches the caller."""

    def before_send(self, topic: str, message: Message) -> Message:
        """The message to send instead."""
        return message

    def after_send(self, topic: str, message: Message, result: SendResult | None, error: DduomqError | None) -> None:
        """How it ended."""

    def before_consume(self, record: Record) -> Record | None:
        """The record to hand over instead; None to skip it."""
        return record


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
        self.tasks: anyio.abc.TaskGroup | None = None
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
            except (*BROKEN, TimeoutError) as error:
                failures.append(f"{host}:{port} ({_reason(error)})")
                continue
            self.tasks.start_soon(connection.run)
            self.server = await connection.greet(self._client_id)
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


class Client:
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
        self._wire = wire
        self._serializer = serializer
        self._interceptors = interceptors
        self._auto_create = auto_create
        self._wall_ms = wall_ms
        self._rng = rng
        self._strategy = strategy
        self._options = options
        self._producer = self._make_producer(options)
        self._oneway: Producer | None = None
        self.admin = Admin(wire.ask, wall_ms)

    def _make_producer(self, options: ProducerOptions) -> Producer:
        return Producer(options, wire=self._wire, refresh=self._topic, strategy=self._strategy, rng=self._rng)

    async def run(self, tasks: anyio.abc.TaskGroup) -> None:
        tasks.start_soon(self._producer.run)

    async def _topic(self, name: str) -> native.TopicMetadata:
        """The topic's metadata; it is made on first use where the broker allows it."""
        body = native.Metadata((name,), self._auto_create)
        plain, _ = await self._wire.ask(body, int(self._options.delivery_timeout_s * 1000))
        topic = native.from_plain(native.MetadataAnswer, plain).topics[0]
        if topic.code:
            raise from_code(topic.code, topic.message or "")
        return topic

    # --- sending ------------------------------------------------------------------------------------

    async def send(self, topic: str, value: Any, **fields: Any) -> SendResult:
        """Send one record and await its ack.

        Fields: key, headers, tag, keys, partition, timestamp_ms, sharding_key. When cancelled, a record that is in
        no request yet is withdrawn; one that is may still be stored.
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
        return SendResult(topic, result.partition, result.offset, result.timestamp_ms, result.durability, len(items))

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
                self._wire.tasks.start_soon(_raise, raised)

        return done

    def _item(self, message: Message, now_ms: int, deadline: float, on_done: Any) -> Item:
        timestamp = now_ms if message.timestamp_ms is None else message.timestamp_ms
        value = self._serializer.dumps(message.value)
        return Item(timestamp, self._key(message.key), value, headers_of(message), deadline, on_done)

    def _key(self, key: Any) -> bytes | None:
        return None if key is None else AUTO.dumps(key if isinstance(key, bytes | str) else str(key))

    # --- reading ------------------------------------------------------------------------------------

    async def pull(
        self,
        topic: str,
        *,
        partition: int = 0,
        offset: Start = "earliest",
        max_records: int = 500,
        max_bytes: int = 1024 * 1024,
        wait: float = 0.5,
        isolation: str = "committed",
    ) -> list[Record]:
        """Records of one partition from `offset` on: an offset, 'earliest', 'latest' or a datetime.

        [] when there are none after `wait` seconds.
        """
        start = await find_offset(
            self._wire.ask, topic, partition, offset, int(self._options.delivery_timeout_s * 1000)
        )
        part = native.FetchPart(topic, partition, start, max_bytes)
        body = native.Fetch(int(wait * 1000), 1, max_bytes, _isolation(isolation), (part,))
        plain, payload = await self._wire.ask(body, int((wait + 10) * 1000))
        fetched = native.from_plain(native.Fetched, plain).parts[0]
        if fetched.code:
            raise from_code(fetched.code, fetched.message or "")
        decoder = Decoder(topic, partition, start, self._serializer.loads if self._serializer is not AUTO else None)
        return self._shown(decoder.decode(payload, fetched.aborted))[:max_records]

    def _shown(self, records: list[Record]) -> list[Record]:
        if not self._interceptors:
            return records
        return [shown for record in records if (shown := self._before_consume(record)) is not None]

    def _before_consume(self, record: Record) -> Record | None:
        shown: Record | None = record
        for interceptor in self._interceptors:
            if shown is not None:
                shown = interceptor.before_consume(shown)
        return shown

    @asynccontextmanager
    async def reader(
        self,
        topic: str,
        *,
        partitions: Sequence[int] | None = None,
        start: Start | Mapping[int, Start] = "earliest",
        isolation: str = "committed",
        max_bytes: int = 1024 * 1024,
        wait: float = 0.5,
    ) -> AsyncIterator[Reader]:
        """Follow a topic from `start` on, without a group: for replay, tools and tests."""
        if partitions is None:
            partitions = [part.partition for part in (await self._topic(topic)).partitions]
        positions = {}
        for partition in partitions:
            wanted = start.get(partition, "earliest") if isinstance(start, Mapping) else start
            positions[partition] = await find_offset(self._wire.ask, topic, partition, wanted, 10_000)
        yield Reader(
            topic,
            positions,
            ask=self._wire.ask,
            reconnect=self._wire.reconnect,
            deserialize=self._serializer.loads if self._serializer is not AUTO else None,
            isolation=_isolation(isolation),
            max_bytes=max_bytes,
            wait_s=wait,
            on_consume=self._before_consume if self._interceptors else None,
        )


async def _raise(error: Exception) -> None:
    raise error


def _isolation(name: str) -> int:
    match name:
        case "committed":
            return native.Isolation.READ_COMMITTED
        case "uncommitted":
            return native.Isolation.READ_UNCOMMITTED
    raise UsageError(f"isolation is 'committed' or 'uncommitted', not {name!r}")


def _oneway_options(options: ProducerOptions) -> ProducerOptions:
    import attrs

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
    """A client of the node, or nodes, at `address`. Times are seconds, sizes bytes.

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
    async with _flat_tasks() as tasks:
        wire.tasks = tasks
        await wire.connection()
        await client.run(tasks)
        try:
            yield client
            with anyio.move_on_after(CLOSE_TIMEOUT_S):
                await client.flush()
        finally:
            wire.is_closed = True
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _flat_tasks() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group whose one failure comes out as itself."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        leaf: BaseException = group
        while isinstance(leaf, BaseExceptionGroup) and len(leaf.exceptions) == 1:
            leaf = leaf.exceptions[0]
        if leaf is group:
            raise
        raise leaf from leaf.__cause__


def _acks(acks: int | str) -> int:
    known = {"all": -1, -1: -1, 0: 0, 1: 1, "0": 0, "1": 1}
    if acks not in known:
        raise UsageError(f"acks is 0, 1 or 'all', not {acks!r}")
    return known[acks]
