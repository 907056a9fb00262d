"""Reading without a group: pull from a partition, or follow a topic's partitions.

Always true: records of a partition come in offset order, each once; control batches and records of aborted
transactions are never shown; a batch is believed only with its CRC.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import anyio

from dduomq.client.fetching import Came, Fetching
from dduomq.client.record import Record
from dduomq.client.wire import Wire
from dduomq.errors import CorruptMessage, DduomqError, OffsetOutOfRange, UsageError, from_code
from dduomq.wire import native
from dduomq.wire.batch import BatchHeader, is_whole, iter_headers
from dduomq.wire.records import open_batch

Start: TypeAlias = int | str | datetime
FETCH_BYTES = 1024 * 1024
REQUEST_GRACE_MS = 10_000
RETRY_PAUSE_S = 0.1
_ABORT, _CONTROL_TYPE = 0, slice(2, 4)


def timestamp_of(start: Start) -> int:
    """What to ask the broker for, to find the offset of `start`; raises `UsageError`."""
    if isinstance(start, datetime):
        return int(start.timestamp() * 1000)
    if start == "earliest":
        return native.EARLIEST
    if start == "latest":
        return native.LATEST
    raise UsageError(f"a start is an offset, 'earliest', 'latest' or a datetime, not {start!r}")


class Decoder:
    """Turns fetched bytes of one partition into records, from `position` on."""

    def __init__(
        self,
        topic: str,
        partition: int,
        position: int,
        deserialize: Callable[[Any], Any] | None,
        make: type[Record] = Record,
    ) -> None:
        self._make = make
        self.topic = topic
        self.partition = partition
        self.position = position
        self._deserialize = deserialize
        self._aborted: set[int] = set()

    def seek(self, offset: int) -> None:
        """Go on from `offset`; what was aborted where it has been says nothing about there."""
        self.position = offset
        self._aborted.clear()

    def decode(self, data: memoryview, aborted: Sequence[tuple[int, int]]) -> list[Record]:
        """The records in `data`; `position` moves behind them. Raises `CorruptMessage`."""
        records: list[Record] = []
        to_come = deque(sorted(aborted, key=lambda pair: pair[1]))
        for at, header in iter_headers(data):
            if not is_whole(data, at, header):
                raise CorruptMessage(f"{self.topic}-{self.partition} offset {header.base_offset}: wrong CRC")
            while to_come and to_come[0][1] <= header.base_offset:
                self._aborted.add(to_come.popleft()[0])
            batch = data[at : at + header.size]
            if header.is_control:
                self._control(batch, header)
            elif not (header.is_transactional and header.producer_id in self._aborted):
                self._take(batch, header, records)
            self.position = max(self.position, header.next_offset)
        return records

    def _take(self, batch: memoryview, header: BatchHeader, records: list[Record]) -> None:
        topic, partition, position, deserialize = self.topic, self.partition, self.position, self._deserialize
        make = self._make
        append_time = header.max_timestamp if header.is_log_append_time else -1
        try:
            found = [
                make(
                    topic, partition, r.offset, append_time if append_time >= 0 else r.timestamp,
                    r.key, r.value, r.headers, deserialize,
                )
                for r in open_batch(batch)
            ]  # fmt: skip
        except CorruptMessage:
            raise
        except Exception as error:  # the codec has a class for each kind of damage
            raise CorruptMessage(f"{topic}-{partition} offset {header.base_offset}: {error}") from error
        if header.base_offset < position:
            found = [record for record in found if record.offset >= position]
        records += found

    def _control(self, batch: memoryview, header: BatchHeader) -> None:
        """An abort marker ends what the fetch's list of aborted transactions began."""
        for record in open_batch(batch):
            if record.key is not None and int.from_bytes(record.key[_CONTROL_TYPE], "big") == _ABORT:
                self._aborted.discard(header.producer_id)


Ask: TypeAlias = Callable[[object, int], Awaitable[tuple[Any, memoryview]]]


async def fetch_next(
    ask: Ask, decoder: Decoder, *, max_bytes: int, wait_s: float, isolation: int, filter: str | None
) -> list[Record]:
    """What lies at the decoder's position, which moves behind it; [] for holes, or for nothing after `wait_s`."""
    part = native.FetchPart(decoder.topic, decoder.partition, decoder.position, max_bytes)
    body = native.Fetch(int(wait_s * 1000), 1, max_bytes, isolation, (part,), filter)
    plain, payload = await ask(body, int(wait_s * 1000) + REQUEST_GRACE_MS)
    fetched = native.from_plain(native.Fetched, plain).parts[0]
    if fetched.code:
        raise from_code(fetched.code, fetched.message or "")
    return decoder.decode(payload, fetched.aborted)


async def find_offset(ask: Ask, topic: str, partition: int, start: Start, timeout_ms: int) -> int:
    """The offset that `start` means; for a time without records at or after it, the end."""
    if isinstance(start, int) and not isinstance(start, bool):
        return start
    wanted = timestamp_of(start)
    found = await _list_one(ask, topic, partition, wanted, timeout_ms)
    if found.offset < 0:
        found = await _list_one(ask, topic, partition, native.LATEST, timeout_ms)
    return found.offset


async def _list_one(ask: Ask, topic: str, partition: int, timestamp: int, timeout_ms: int) -> native.OffsetFound:
    query = native.OffsetQuery(topic, partition, timestamp)
    plain, _ = await ask(native.ListOffsets(native.Isolation.READ_COMMITTED, (query,)), timeout_ms)
    found = native.from_plain(native.OffsetsFound, plain).found[0]
    if found.code:
        raise from_code(found.code, found.message or "")
    return found


class Reader:
    """Follows partitions of a topic: `async for record in reader`, or `pull`, or `batches`.

    Each fetch asks for all partitions, each where it is led; `seek` moves one. Not tied to a group: nobody's progress
    changes.
    """

    def __init__(
        self,
        topic: str,
        positions: dict[int, int],
        *,
        wire: Wire,
        deserialize: Callable[[Any], Any] | None,
        isolation: int,
        max_bytes: int,
        wait_s: float,
        on_consume: Callable[[Record], Record | None] | None = None,
        filter: str | None = None,
    ) -> None:
        self._filter = filter
        self.topic = topic
        self._decoders = {p: Decoder(topic, p, offset, deserialize) for p, offset in positions.items()}
        self._wire = wire
        self._fetching = Fetching(wire, topic)
        self._isolation = isolation
        self._max_bytes = max_bytes
        self._wait_s = wait_s
        self._on_consume = on_consume
        self._buffered: deque[Record] = deque()
        self._paused: set[int] = set()
        self._order = sorted(positions)
        self.high_watermarks: dict[int, int] = {}

    def position(self, partition: int) -> int:
        """The offset that is read next."""
        for record in self._buffered:
            if record.partition == partition:
                return record.offset
        return self._decoder(partition).position

    def seek(self, partition: int, offset: int) -> None:
        """Go on from `offset`, forward or back."""
        self._buffered = deque(record for record in self._buffered if record.partition != partition)
        self._decoder(partition).seek(offset)

    async def seek_to(self, start: Start, partition: int | None = None) -> None:
        """Go on from an offset, a time, 'earliest' or 'latest', in one partition or all."""
        for at in [partition] if partition is not None else list(self._decoders):
            self.seek(at, await find_offset(self._wire.ask_surely, self.topic, at, start, REQUEST_GRACE_MS))

    def pause(self, partition: int) -> None:
        """Fetch nothing from it until `resume`."""
        self._decoder(partition)
        self._paused.add(partition)

    def resume(self, partition: int) -> None:
        self._paused.discard(partition)

    def _decoder(self, partition: int) -> Decoder:
        try:
            return self._decoders[partition]
        except KeyError:
            raise UsageError(f"partition {partition} of {self.topic!r} is not being read here") from None

    async def fetch(self, wait_s: float | None = None) -> list[Record]:
        """One fetch of all partitions: its records, [] after `wait_s` without any."""
        wait_ms = int((self._wait_s if wait_s is None else wait_s) * 1000)
        self._order.append(self._order.pop(0))
        asked = [p for p in self._order if p not in self._paused]
        if not asked:
            await anyio.sleep(wait_ms / 1000)
            return []

        def make(partitions: Sequence[int]) -> native.Fetch:
            parts = [native.FetchPart(self.topic, p, self._decoders[p].position, self._max_bytes) for p in partitions]
            return native.Fetch(wait_ms, 1, self._max_bytes, self._isolation, tuple(parts), self._filter)

        return self._decode(await self._fetching.next(asked, make))

    def _decode(self, came: Sequence[Came]) -> list[Record]:
        records: list[Record] = []
        failure: DduomqError | None = None
        for one in came:
            at = 0
            failure = failure or one.error
            for asked, part in zip(one.parts, one.fetched.parts if one.fetched else (), strict=one.fetched is not None):
                data = one.payload[at : at + part.size]
                at += part.size
                decoder = self._decoders[asked.partition]
                if decoder.position != asked.offset or asked.partition in self._paused:
                    continue  # it has been moved, or halted, since it was asked for
                if part.code:
                    failure = failure or from_code(part.code, part.message or "")
                    continue
                if part.high_watermark != native.UNKNOWN_MARK:
                    self.high_watermarks[asked.partition] = part.high_watermark
                records += decoder.decode(data, part.aborted)
        if failure is not None and not records:
            raise failure
        if self._on_consume is not None:
            records = [kept for record in records if (kept := self._on_consume(record)) is not None]
        return records

    async def pull(self, max_records: int = 500, timeout: float | None = None) -> list[Record]:
        """Up to `max_records`; [] after `timeout` seconds without any."""
        if not self._buffered:
            self._buffered.extend(await self.fetch(timeout))
        count = min(max_records, len(self._buffered))
        return [self._buffered.popleft() for _ in range(count)]

    async def take(self) -> list[Record]:
        """What a `pull` has left over, or the next fetch's records; waits for some. Lost connections are made again."""
        while not self._buffered:
            self._buffered.extend(await self._fetch_surely())
        records = list(self._buffered)
        self._buffered.clear()
        return records

    async def batches(self) -> AsyncIterator[list[Record]]:
        """For ever: the records of one fetch after another. Lost connections are made again."""
        while True:
            yield await self.take()

    async def _fetch_surely(self) -> list[Record]:
        try:
            return await self.fetch()
        except OffsetOutOfRange:
            raise
        except DduomqError as error:
            if not error.retriable:
                raise
            await anyio.sleep(RETRY_PAUSE_S)
            await self._wire.reconnect()
            return []

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> Record:
        while not self._buffered:
            self._buffered.extend(await self._fetch_surely())
        return self._buffered.popleft()

    def next_at_hand(self) -> Record | None:
        """The next record if it is here already."""
        return self._buffered.popleft() if self._buffered else None
