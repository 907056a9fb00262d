"""The client's reading side: pulling, following a topic, consuming as a member of a group."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random
from typing import Any, Literal

import anyio

from dduomq.client.consumer import Decoder, Reader, Start, fetch_next, find_offset
from dduomq.client.consuming import ConsumerSettings, consuming
from dduomq.client.group import Callback, Consumer
from dduomq.client.interceptor import Interceptor
from dduomq.client.queue import Queue, QueueSettings, queueing
from dduomq.client.queue_record import QueueRecord
from dduomq.client.record import Record
from dduomq.client.retrying import RETRY_LADDER, Delay
from dduomq.client.serializers import AUTO, Serializer
from dduomq.client.wire import Wire
from dduomq.errors import LeaderNotAvailable, UsageError, from_code
from dduomq.wire import native

AGAIN_S = 0.1


class ReadingClient:
    """What a client reads with."""

    def __init__(
        self,
        wire: Wire,
        *,
        serializer: Serializer,
        interceptors: Sequence[Interceptor],
        auto_create: bool,
        timeout_ms: int,
        rng: Random,
        wall_ms: Callable[[], int],
    ) -> None:
        self._wire = wire
        self._serializer = serializer
        self._interceptors = interceptors
        self._auto_create = auto_create
        self._timeout_ms = timeout_ms
        self._rng = rng
        self._wall_ms = wall_ms

    async def _topic(self, name: str) -> native.TopicMetadata:
        """The topic's metadata; it is made on first use where the broker allows it, and then waited for."""
        body = native.Metadata((name,), self._auto_create)
        deadline = anyio.current_time() + self._timeout_ms / 1000
        while True:
            plain, _ = await self._wire.ask(body, self._timeout_ms)
            topic = native.from_plain(native.MetadataAnswer, plain).topics[0]
            if topic.code:
                raise from_code(topic.code, topic.message or "")
            if topic.partitions:
                return topic
            if anyio.current_time() >= deadline:
                raise LeaderNotAvailable(f"topic {name!r} is only just being made; try again")
            await anyio.sleep(AGAIN_S)

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
        filter: str | None = None,
    ) -> list[Record]:
        """Records of one partition from `offset` on: an offset, 'earliest', 'latest' or a datetime.

        `filter`: only those that match; see `consumer`.

        [] when there are none after `wait` seconds.
        """
        start = await find_offset(self._wire.ask_surely, topic, partition, offset, self._timeout_ms)
        decoder = Decoder(topic, partition, start, self._deserialize)
        while True:
            at = decoder.position
            found = await fetch_next(
                self._wire.ask_surely, decoder, max_bytes=max_bytes, wait_s=wait, isolation=_isolation(isolation),
                filter=filter,
            )  # fmt: skip
            records = self._shown(found)
            if records or decoder.position == at:  # else only holes were there: records may lie behind them
                return records[:max_records]

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
        filter: str | None = None,
    ) -> AsyncIterator[Reader]:
        """Follow a topic from `start` on, without a group: for replay, tools and tests; `filter` as in `consumer`."""
        if partitions is None:
            partitions = [part.partition for part in (await self._topic(topic)).partitions]
        positions = {}
        for partition in partitions:
            wanted = start.get(partition, "earliest") if isinstance(start, Mapping) else start
            positions[partition] = await find_offset(self._wire.ask_surely, topic, partition, wanted, 10_000)
        yield Reader(
            topic,
            positions,
            wire=self._wire,
            deserialize=self._deserialize,
            isolation=_isolation(isolation),
            max_bytes=max_bytes,
            wait_s=wait,
            on_consume=self._before_consume if self._interceptors else None,
            filter=filter,
        )

    @property
    def _deserialize(self) -> Callable[[Any], Any] | None:
        return self._serializer.loads if self._serializer is not AUTO else None

    @asynccontextmanager
    async def consumer(
        self,
        *topics: str,
        group: str | None = None,
        pattern: str | None = None,
        filter: str | None = None,
        start: Start = "earliest",
        mode: Literal["cluster", "broadcast"] = "cluster",
        assignor: str | None = None,
        instance_id: str | None = None,
        zone: str | None = None,
        auto_ack: bool = True,
        auto_commit: bool = True,
        commit_interval: float = 1.0,
        credits: int = 100,
        max_in_flight: int | None = None,
        rate: float | None = None,
        latest_only: bool = False,
        skip_damaged: bool = False,
        isolation: str = "committed",
        session_timeout: float = 45.0,
        rebalance_timeout: float = 60.0,
        retry: Sequence[Delay] | None = RETRY_LADDER,
        offsets_file: str | None = None,
        on_assign: Callback | None = None,
        on_revoke: Callback | None = None,
        on_lost: Callback | None = None,
    ) -> AsyncIterator[Consumer]:
        """Read topics as a member of a group: each record goes to one of its members (F3); see `Consumer`.

        pattern: topics by a regular expression of RE2's, also those that come later.
        filter: tags (`paid || sent`) or an expression over headers (`price > 5 AND region = 'eu'`), evaluated by the
            broker (F45).
        start: where a partition begins of which the group has committed nothing.
        mode: "broadcast": no group; this consumer reads everything, and keeps its place in `offsets_file`.
        assignor: how the group shares out: "sticky", "range", "round-robin", "consistent-hash", "same-zone", ...
        instance_id: a name that outlives restarts; its partitions wait for it.
        zone: where it runs, for assignors that look at that.
        auto_ack: a record is done when the next one is asked for; else by `record.ack()`.
        auto_commit: what is done is committed every `commit_interval` seconds and at the end; else by `commit()`.
        credits: records of one partition that may be on their way.
        max_in_flight, rate: records that may be worked on at once; records a second.
        latest_only: of the records with one key that wait here, only the newest.
        skip_damaged: pass what is damaged on the broker's disk, with an event; else that ends the consumer.
        session_timeout, rebalance_timeout: seconds after which a member that is not heard of is out; that work on
            partitions which are taken away may take.
        retry: the delays after which a record comes again that was not done (`record.nack`), one for each try; behind
        the
            last it is a dead letter of the group (F42, F43). None: nothing is set aside.

        Raises the broker's error for what it refuses: `InvalidFilter`, `UnsupportedAssignor`, `UnreleasedInstance`, ...
        """
        settings = ConsumerSettings(
            topics=topics, group=group, pattern=pattern, filter=filter, start=start, mode=mode, assignor=assignor,
            instance_id=instance_id, zone=zone, auto_ack=auto_ack, auto_commit=auto_commit,
            commit_interval=commit_interval, credits=credits, max_in_flight=max_in_flight, rate=rate,
            latest_only=latest_only, skip_damaged=skip_damaged, isolation=_isolation(isolation),
            session_timeout=session_timeout, rebalance_timeout=rebalance_timeout, retry=retry,
            offsets_file=offsets_file, on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost,
        )  # fmt: skip
        async with consuming(
            settings, self._wire, topic=self._topic, member_id=f"{self._rng.getrandbits(128):032x}",
            deserialize=self._deserialize, shown=self._before_consume if self._interceptors else None,
            wall_ms=self._wall_ms,
        ) as consumer:  # fmt: skip
            yield consumer

    @asynccontextmanager
    async def queue(
        self,
        *topics: str,
        group: str,
        start: str | datetime = "earliest",
        auto_ack: bool = True,
        prefetch: int = 100,
        lock: float = 30.0,
        deliveries: int | None = None,
        session_timeout: float = 45.0,
        zone: str | None = None,
        on_lost: Callable[[QueueRecord], None] | None = None,
    ) -> AsyncIterator[Queue]:
        """Work on topics together with other members of a group, any number on one partition; see `Queue`.

        start: where the group begins in a partition that it has never worked on: "earliest", "latest" or a datetime.
        auto_ack: a record is done when the next one is asked for; else by `record.ack()`.
        prefetch: records that may wait here; they are locked, so fewer are fairer, more are faster.
        lock: seconds until a record that nobody is heard of goes to another member. While it is worked on, its lock
            is renewed.
        deliveries: so often the group gives out a record, then it is dead; 5 unless somebody says otherwise.
        session_timeout: seconds after which a member that is not heard of is out.
        on_lost: called with a record that another member has got, or will.
        """
        settings = QueueSettings(
            topics=topics, group=group, start=start, auto_ack=auto_ack, prefetch=prefetch, lock=lock,
            deliveries=deliveries, session_timeout=session_timeout, zone=zone, on_lost=on_lost,
        )  # fmt: skip
        async with queueing(
            settings, self._wire, topic=self._topic, member_id=f"{self._rng.getrandbits(128):032x}",
            deserialize=self._deserialize, shown=self._before_consume if self._interceptors else None,
            wall_ms=self._wall_ms,
        ) as queue:  # fmt: skip
            yield queue


def _isolation(name: str) -> int:
    match name:
        case "committed":
            return native.Isolation.READ_COMMITTED
        case "uncommitted":
            return native.Isolation.READ_UNCOMMITTED
    raise UsageError(f"isolation is 'committed' or 'uncommitted', not {name!r}")
