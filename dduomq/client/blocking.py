"""The blocking face: every call is handed to the client's own thread and waited for."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from inspect import isasyncgenfunction
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from dduomq.client.admin import Admin
from dduomq.client.client import Client
from dduomq.client.client import connect as connect_async
from dduomq.client.consumer import Reader, Start
from dduomq.client.group import Consumer
from dduomq.client.part import GroupRecord, TopicPartition
from dduomq.client.producer import Delivery
from dduomq.client.queue import Queue
from dduomq.client.queue_record import QueueRecord, Seconds
from dduomq.client.record import Record, SendResult

END = object()


class BlockingAdmin:
    """Every method of `dduomq.client.admin.Admin`, waited for."""

    def __init__(self, portal: BlockingPortal, admin: Admin) -> None:
        self._portal = portal
        self._admin = admin

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._admin, name)

        def call(*args: Any, **fields: Any) -> Any:
            if isasyncgenfunction(method):
                return self._iterate(method(*args, **fields))
            return self._portal.call(lambda: method(*args, **fields))

        return call

    def _iterate(self, found: AsyncIterator[Any]) -> Iterator[Any]:
        """What an asynchronous iterator gives, one by one."""
        while (item := self._portal.call(anext, found, END)) is not END:
            yield item


class BlockingReader:
    """Iterate for records, for ever, through lost connections; or `pull` some."""

    def __init__(self, portal: BlockingPortal, reader: Reader) -> None:
        self._portal = portal
        self._reader = reader

    def pull(self, max_records: int = 500, timeout: float | None = None) -> list[Record]:
        """Up to `max_records`; [] after `timeout` seconds without any."""
        return self._portal.call(self._reader.pull, max_records, timeout)

    def seek(self, partition: int, offset: int) -> None:
        self._portal.call(self._reader.seek, partition, offset)

    def seek_to(self, start: Start, partition: int | None = None) -> None:
        self._portal.call(self._reader.seek_to, start, partition)

    def position(self, partition: int) -> int:
        return self._portal.call(self._reader.position, partition)

    def pause(self, partition: int) -> None:
        """Fetch nothing from it until `resume`."""
        self._portal.call(self._reader.pause, partition)

    def resume(self, partition: int) -> None:
        self._portal.call(self._reader.resume, partition)

    def batches(self) -> Iterator[list[Record]]:
        """For ever: the records of one fetch after another. Lost connections are made again."""
        while True:
            yield self._portal.call(self._reader.take)

    def __iter__(self) -> Iterator[Record]:
        while True:
            yield self._reader.next_at_hand() or self._portal.call(self._reader.__anext__)


class BlockingConsumer:
    """`dduomq.Consumer` for scripts: iterate, or `pull`; heartbeats go on in the client's own thread."""

    def __init__(self, portal: BlockingPortal, consumer: Consumer) -> None:
        self._portal = portal
        self._consumer = consumer

    def __iter__(self) -> Iterator[GroupRecord]:
        while True:
            yield self._portal.call(self._consumer.__anext__)

    def pull(self, max_records: int = 500, timeout: float | None = None) -> list[GroupRecord]:
        """Up to `max_records`; [] after `timeout` seconds without any. They are done when the next are asked for."""
        return self._portal.call(self._consumer.pull, max_records, timeout)

    def ack(self, record: GroupRecord) -> None:
        """The work on it has ended."""
        self._portal.call(record.ack)

    def commit(self) -> None:
        self._portal.call(self._consumer.commit)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._portal.call(self._consumer.seek, topic, partition, offset)

    def pause(self, topic: str, partition: int) -> None:
        self._portal.call(self._consumer.pause, topic, partition)

    def resume(self, topic: str, partition: int) -> None:
        self._portal.call(self._consumer.resume, topic, partition)

    @property
    def assignment(self) -> list[TopicPartition]:
        return self._portal.call(lambda: self._consumer.assignment)


class BlockingQueue:
    """`dduomq.Queue` for scripts: iterate, or `pull`; heartbeats and locks go on in the client's own thread."""

    def __init__(self, portal: BlockingPortal, queue: Queue) -> None:
        self._portal = portal
        self._queue = queue

    def __iter__(self) -> Iterator[QueueRecord]:
        while True:
            yield self._portal.call(self._queue.__anext__)

    def pull(self, max_records: int = 100, timeout: float | None = None) -> list[QueueRecord]:
        """Up to `max_records`; [] after `timeout` seconds without any. They are done when the next are asked for."""
        return self._portal.call(self._queue.pull, max_records, timeout)

    def ack(self, record: QueueRecord) -> None:
        """It is done."""
        self._portal.call(record.ack)

    def nack(self, record: QueueRecord, delay: Seconds | None = None, error: BaseException | str | None = None) -> None:
        """Give it back, for others after `delay` seconds."""
        self._portal.call(record.nack, delay, error)

    def reject(self, record: QueueRecord, reason: BaseException | str | None = None) -> None:
        """It can't be worked on."""
        self._portal.call(record.reject, reason)

    def extend(self, record: QueueRecord, seconds: Seconds | None = None) -> None:
        """The work takes longer."""
        self._portal.call(record.extend, seconds)


class BlockingDelivery:
    """A record under way; `result()` waits for its end."""

    def __init__(self, portal: BlockingPortal, delivery: Delivery) -> None:
        self._portal = portal
        self._delivery = delivery

    @property
    def done(self) -> bool:
        return self._delivery.done

    def result(self) -> SendResult:
        """Raises the error that the delivery ended in."""
        return self._portal.call(self._delivery.wait)


class BlockingClient:
    """`dduomq.Client` for scripts; see there for the arguments."""

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self._portal = portal
        self._client = client
        self.admin = BlockingAdmin(portal, client.admin)

    def send(self, topic: str, value: Any, **fields: Any) -> SendResult:
        return self._portal.call(lambda: self._client.send(topic, value, **fields))

    def send_async(self, topic: str, value: Any, **fields: Any) -> BlockingDelivery:
        """Hand a record over; waits only for room in the buffer."""
        delivery = self._portal.call(lambda: self._client.send_async(topic, value, **fields))
        return BlockingDelivery(self._portal, delivery)

    def send_oneway(self, topic: str, value: Any, **fields: Any) -> None:
        self._portal.call(lambda: self._client.send_oneway(topic, value, **fields))

    def send_batch(self, topic: str, values: Any, **fields: Any) -> SendResult:
        return self._portal.call(lambda: self._client.send_batch(topic, values, **fields))

    def flush(self) -> None:
        self._portal.call(self._client.flush)

    def pull(self, topic: str, **fields: Any) -> list[Record]:
        return self._portal.call(lambda: self._client.pull(topic, **fields))

    @contextmanager
    def reader(self, topic: str, **fields: Any) -> Iterator[BlockingReader]:
        with self._portal.wrap_async_context_manager(self._client.reader(topic, **fields)) as reader:
            yield BlockingReader(self._portal, reader)

    @contextmanager
    def consumer(self, *topics: str, **options: Any) -> Iterator[BlockingConsumer]:
        """As a member of a group; see `dduomq.Client.consumer` for the options."""
        with self._portal.wrap_async_context_manager(self._client.consumer(*topics, **options)) as consumer:
            yield BlockingConsumer(self._portal, consumer)

    @contextmanager
    def queue(self, *topics: str, **options: Any) -> Iterator[BlockingQueue]:
        """Work on topics with others, record by record; see `dduomq.Client.queue` for the options."""
        with self._portal.wrap_async_context_manager(self._client.queue(*topics, **options)) as queue:
            yield BlockingQueue(self._portal, queue)


@contextmanager
def connect(address: str = "localhost:6086", **options: Any) -> Iterator[BlockingClient]:
    """`dduomq.connect` for scripts; the same arguments, the same errors."""
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(connect_async(address, **options)) as client,
    ):
        yield BlockingClient(portal, client)
