"""What waits to be sent to one partition, as a pure machine: records become batches, batches are sent, retried,
answered.

Always true:
- batches leave in order; at most `IN_FLIGHT_MAX` are under way, and while one of them must be sent again, only
  the oldest is;
- what arrives while a request is under way leaves in the next one, so waiting costs no extra request;
- nothing leaves while the queue is held: its partition has another leader, and the old one has not answered yet;
- a batch keeps its bytes, sequence included, through all retries, so that the broker can tell a duplicate; it
  gets another sequence only when the broker has said for certain that it is not in the log;
- every record ends in a result or an error.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from dduomq.client.record import Headers, SendResult
from dduomq.errors import (
    DduomqError,
    InvalidProducerEpoch,
    LeaderNotAvailable,
    MessageTooLarge,
    NetworkError,
    NodeStopping,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    RequestTimedOut,
    StorageError,
    UnknownServerError,
)
from dduomq.wire import native
from dduomq.wire.batch import HEADER_BYTES, SEQUENCE_MAX, set_producer
from dduomq.wire.cluster_errors import PeerUnavailable
from dduomq.wire.compress import Compression
from dduomq.wire.records import BatchBuilder, size_of

IN_FLIGHT_MAX = 5
# After these a batch may be in the log: it may have been written before the broker had to give up on it.
# A leader that is none any more does not know what its successor has of what it had written.
MAYBE_STORED = (
    OutcomeUnknown, NetworkError, StorageError, LeaderNotAvailable, NotLeader, NodeStopping, PeerUnavailable,
    UnknownServerError,
)  # fmt: skip


class Item:
    """One record that waits. `on_done(result, error)` is called once, unless it was withdrawn."""

    __slots__ = ("deadline", "headers", "key", "on_done", "size", "timestamp_ms", "value", "withdrawn")

    def __init__(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        deadline: float,
        on_done: Callable[[SendResult | None, DduomqError | None], Any] | None,
    ) -> None:
        self.timestamp_ms = timestamp_ms
        self.key = key
        self.value = value
        self.headers = headers
        self.deadline = deadline
        self.on_done = on_done
        self.withdrawn = False
        self.size = size_of(key, value, headers)


class Batch:
    """A sealed batch: its bytes do not change any more but for a new sequence."""

    __slots__ = ("count", "data", "deadline", "is_numbered", "items", "max_timestamp", "order", "retries", "was_sent")

    def __init__(self, data: bytearray, items: Sequence[Item], count: int, deadline: float, max_timestamp: int) -> None:
        self.data = data
        self.items = items
        self.count = count
        self.deadline = deadline
        self.max_timestamp = max_timestamp
        self.is_numbered = False
        self.was_sent = False
        self.order = 0
        self.retries = 0


def seal(items: Sequence[Item], compression: Compression, deadline: float) -> Batch:
    """One batch of `items`, all of them."""
    builder = BatchBuilder(compression)
    for item in items:
        if not builder.append(item.timestamp_ms, item.key, item.value, item.headers):
            raise MessageTooLarge(f"{len(items)} records don't fit into one batch; send them in smaller ones")
    return Batch(builder.build(), items, builder.count, deadline, builder.max_timestamp)


class PartitionQueue:
    """The sending side of one partition. Times are seconds of a monotonic clock.

    Records gather up to `batch_bytes`; one that is larger leaves alone, if the topic takes it.
    """

    __slots__ = (
        "_compression",
        "_epoch",
        "_in_flight",
        "_next_sequence",
        "_open",
        "_open_bytes",
        "_order",
        "_producer_id",
        "_ready",
        "_retrying",
        "_trouble",
        "batch_bytes",
        "batch_bytes_max",
        "is_held",
        "needs_epoch",
        "not_before",
        "partition",
        "topic",
        "waiting_bytes",
    )  # fmt: skip

    def __init__(
        self, topic: str, partition: int, compression: Compression, batch_bytes: int, batch_bytes_max: int
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.batch_bytes = min(batch_bytes, batch_bytes_max)
        self.batch_bytes_max = batch_bytes_max
        self.waiting_bytes = 0
        self.needs_epoch = True
        self.not_before = 0.0
        self.is_held = False
        self._compression = compression
        self._open: deque[Item] = deque()
        self._open_bytes = 0
        self._ready: deque[Batch] = deque()
        self._in_flight: deque[Batch] = deque()
        self._retrying: list[Batch] = []
        self._producer_id = -1
        self._epoch = -1
        self._next_sequence = 0
        self._order = 0
        self._trouble: DduomqError | None = None

    @property
    def is_empty(self) -> bool:
        return not (self._open or self._ready or self._in_flight or self._retrying)

    @property
    def identity(self) -> tuple[int, int]:
        """(producer id, epoch); (-1, -1) before the first."""
        return self._producer_id, self._epoch

    def identify(self, producer_id: int, epoch: int) -> None:
        """A producer identity; sequences begin at 0."""
        self._producer_id, self._epoch = producer_id, epoch
        self._next_sequence = 0
        self.needs_epoch = False

    def add(self, item: Item) -> None:
        """Raises `MessageTooLarge` for a record that fits into no batch."""
        if item.size + HEADER_BYTES > self.batch_bytes_max and self._compression is Compression.NONE:
            builder = BatchBuilder()
            builder.append(item.timestamp_ms, item.key, item.value, item.headers)
            if builder.size > self.batch_bytes_max:
                raise MessageTooLarge(
                    f"the record takes {builder.size} bytes, the topic takes {self.batch_bytes_max} (max.message.bytes)"
                )
        self._open.append(item)
        self._open_bytes += item.size
        self.waiting_bytes += item.size

    def add_batch(self, batch: Batch) -> None:
        """A batch that the application made: it is sent as it is, in its place."""
        if len(batch.data) > self.batch_bytes_max:
            raise MessageTooLarge(
                f"the batch takes {len(batch.data)} bytes, the topic takes {self.batch_bytes_max} (max.message.bytes)"
            )
        self._seal_all()
        self._ready.append(batch)
        self.waiting_bytes += len(batch.data)

    def withdraw(self, item: Item) -> bool:
        """Take a record back; False when it is in a request already."""
        if item in self._open:
            self._open.remove(item)
            self._open_bytes -= item.size
            self.waiting_bytes -= item.size
            item.withdrawn = True
            return True
        return False

    def next_batch(self, now: float) -> Batch | None:
        """The batch that is to be sent now, None when there is none or it must wait."""
        if now < self.not_before or self.needs_epoch or self.is_held:
            return None
        if self._retrying:
            return None if self._in_flight else self._send(self._retrying.pop(0))
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            return None
        if not self._ready:
            is_full = self._open_bytes >= self.batch_bytes - HEADER_BYTES
            if self._open and (is_full or not self._in_flight):
                self._seal_one()
        return self._send(self._ready.popleft()) if self._ready else None

    def may_send(self, now: float) -> bool:
        """Whether it is worth while to reach the leader."""
        return not (now < self.not_before or self.needs_epoch or self.is_held) and self.has_work

    @property
    def has_in_flight(self) -> bool:
        """Whether anything is under way."""
        return bool(self._in_flight)

    def hinder(self, error: DduomqError, until: float) -> None:
        """Nothing could leave, for this reason; the next try is to wait so long."""
        self._trouble = error
        self.not_before = max(self.not_before, until)

    def welcome(self) -> None:
        """Another node leads: there is nothing to wait for any more, but for an identity."""
        if self.not_before != float("inf"):
            self.not_before = 0.0

    @property
    def may_identify(self) -> bool:
        """Whether a new identity is wanted and nothing of the old one is under way."""
        return self.needs_epoch and not self._in_flight and self.has_work

    @property
    def has_work(self) -> bool:
        """Whether something could be sent, were there an identity and no back-off."""
        if self._retrying:
            return not self._in_flight
        return bool(self._ready or self._open) and len(self._in_flight) < IN_FLIGHT_MAX

    def _seal_all(self) -> None:
        while self._open:
            self._seal_one()

    def _seal_one(self) -> None:
        room = self.batch_bytes - HEADER_BYTES
        items = [self._open.popleft()]
        size = items[0].size
        while self._open and size + self._open[0].size <= room:
            size += self._open[0].size
            items.append(self._open.popleft())
        self._open_bytes -= size
        batch = seal(items, self._compression, items[0].deadline)
        self.waiting_bytes += len(batch.data) - size
        self._ready.append(batch)

    def _send(self, batch: Batch) -> Batch:
        if not batch.is_numbered and self._producer_id >= 0:
            set_producer(batch.data, self._producer_id, self._epoch, self._next_sequence)
            self._next_sequence = (self._next_sequence + batch.count) & SEQUENCE_MAX
            batch.is_numbered = True
        if not batch.order:
            self._order += 1
            batch.order = self._order
        self._in_flight.append(batch)
        return batch

    # --- answers ------------------------------------------------------------------------------------

    def succeeded(self, batch: Batch, part: native.ProducedPart) -> None:
        self._trouble = None
        self._leave(batch)
        timestamp = part.append_time_ms
        delayed = {one.delta: one.delay_id for one in part.delayed}
        for number, item in enumerate(batch.items):
            if item.on_done is not None:
                offset = part.base_offset + number if part.base_offset >= 0 else -1
                at = item.timestamp_ms if timestamp < 0 else timestamp
                delay_id = delayed.get(number)
                item.on_done(SendResult(self.topic, self.partition, offset, at, part.durability, 1, delay_id), None)

    def failed(self, batch: Batch, error: DduomqError, now: float, backoff_s: float) -> None:
        """Send it again, or tell its records that it failed."""
        self._trouble = error
        is_first = not any(held.order < batch.order for held in (*self._in_flight, *self._retrying))
        if isinstance(error, MAYBE_STORED):
            batch.was_sent = True
        if now < batch.deadline and self._is_worth_a_retry(batch, error, is_first=is_first):
            self._in_flight.remove(batch)
            batch.retries += 1
            self._retrying.append(batch)
            self._retrying.sort(key=lambda held: held.order)
            self.not_before = now + backoff_s
            return
        self._leave(batch)
        if batch.is_numbered:
            self.needs_epoch = True  # its sequence is missing now, or may be
        self._tell(batch, _final(batch, error))

    def _is_worth_a_retry(self, batch: Batch, error: DduomqError, *, is_first: bool) -> bool:
        if isinstance(error, OutOfOrderSequence | InvalidProducerEpoch):
            if is_first:  # what was before it never came: it is surely not in the log
                batch.is_numbered = False
                if isinstance(error, OutOfOrderSequence):
                    self.needs_epoch = True
            return batch.retries < 100
        return error.retriable

    def _leave(self, batch: Batch) -> None:
        if batch in self._in_flight:
            self._in_flight.remove(batch)
        self.waiting_bytes -= len(batch.data)

    def _tell(self, batch: Batch, error: DduomqError) -> None:
        for item in batch.items:
            if item.on_done is not None:
                item.on_done(None, error)

    def expire(self, now: float) -> None:
        """Give up what is too old and not under way, and say what was in its way."""
        while self._open and self._open[0].deadline <= now:
            item = self._open.popleft()
            self._open_bytes -= item.size
            self.waiting_bytes -= item.size
            if item.on_done is not None:
                item.on_done(None, self._late())
        for batch in [held for held in (*self._ready, *self._retrying) if held.deadline <= now]:
            (self._ready if batch in self._ready else self._retrying).remove(batch)
            self._leave(batch)
            if batch.is_numbered:
                self.needs_epoch = True
            self._tell(batch, _final(batch, self._late()))

    def _late(self) -> DduomqError:
        """Why time ran out: what the broker refused with, or what the last try met."""
        text = "the record could not be sent in its delivery time"
        if self._trouble is None:
            return RequestTimedOut(text)
        if isinstance(self._trouble, MAYBE_STORED):
            return RequestTimedOut(f"{text}: {self._trouble.message}")
        return self._trouble

    def fail_all(self, error: DduomqError) -> None:
        """The producer ends: tell everybody who still waits."""
        for item in self._open:
            if item.on_done is not None:
                item.on_done(None, error)
        for batch in (*self._in_flight, *self._retrying, *self._ready):
            self._tell(batch, _final(batch, error))
        self._open.clear()
        self._in_flight.clear()
        self._ready.clear()
        self._retrying.clear()
        self.waiting_bytes = self._open_bytes = 0


def _final(batch: Batch, error: DduomqError) -> DduomqError:
    """A batch that may be in the log must not be reported as surely failed."""
    if batch.was_sent and not isinstance(error, OutcomeUnknown):
        return OutcomeUnknown(f"the record may be stored or not, a try failed on its way: {error.message}")
    return error
