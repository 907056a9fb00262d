"""What a consumer reads: one stream for each of its partitions, and whose record is next.

Always true: no more records are here, or on their way, than credits were given for, but for the batch that used
them up; a stream that ends for a passing reason is opened again where it ended.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import anyio
import anyio.abc
import attrs

from dduomq.client.conn import AnswerStream
from dduomq.client.expiry import FOREVER, TimeToLive
from dduomq.client.part import Part, TopicPartition
from dduomq.client.record import Record
from dduomq.client.routing import LedBy
from dduomq.client.wire import Wire
from dduomq.errors import (
    CorruptMessage,
    DduomqError,
    NotLeader,
    OffsetOutOfRange,
    UnknownTopicOrPartition,
    UsageError,
)
from dduomq.wire import native
from dduomq.wire.native_groups import Credit, Push

AGAIN_S = 0.1


@attrs.frozen(kw_only=True)
class FeedOptions:
    """`credits`: how many records of a partition may be under way; `max_bytes` is the size of a frame."""

    credits: int = 100
    max_bytes: int = 1024 * 1024
    isolation: int = 1
    filter: str | None = None
    latest_only: bool = False
    skip_damaged: bool = False


class Feed:
    """`reset(part)` finds where to go on when what is to be read is not there; `skipped(part)` is told of a damaged
    record that is passed. Both are to be set before any part is added.
    """

    def __init__(
        self,
        options: FeedOptions,
        *,
        wire: Wire,
        tasks: anyio.abc.TaskGroup,
        shown: Callable[[Record], Record | None] | None,
    ) -> None:
        self._options = options
        self._wire = wire
        self._tasks = tasks
        self.reset: Callable[[Part], Awaitable[int]]
        self.skipped: Callable[[Part], Awaitable[None]]
        self._shown = shown
        self._ready: deque[Part] = deque()
        self._current: Part | None = None
        self._news: anyio.Event | None = None
        self._indebted: dict[Part, None] = {}  # in an order that does not depend on chance
        self._pay: anyio.Event | None = None
        self.parts: dict[TopicPartition, Part] = {}
        self.ttls: dict[str, TimeToLive] = {}  # of topics whose records are not for ever
        self.failure: BaseException | None = None

    # --- partitions ---------------------------------------------------------------------------------

    def add(self, part: Part) -> None:
        """Begin to read a partition."""
        self.parts[part.id] = part
        self._tasks.start_soon(self._follow, part)

    def live_for(self, topic: native.TopicMetadata) -> None:
        """How long its records are worth the work."""
        ttl = TimeToLive.of(topic)
        self.ttls.pop(topic.name, None)
        if ttl != FOREVER:
            self.ttls[topic.name] = ttl

    def remove(self, part: Part) -> None:
        """Read it no more."""
        part.close()
        part.scope.cancel()
        if self.parts.get(part.id) is part:
            del self.parts[part.id]
        part.wake()
        if part.stream is not None:
            self._tasks.start_soon(part.stream.end, Credit(part.stream.correlation, -1))

    def part(self, topic: str, partition: int) -> Part:
        """Raises `UsageError` for one that is not read here."""
        try:
            return self.parts[topic, partition]
        except KeyError:
            raise UsageError(f"{topic}-{partition} is not read by this consumer now") from None

    async def _follow(self, part: Part) -> None:
        with part.scope:
            while not part.is_closed:
                error = await self._read(part)
                if isinstance(error, OffsetOutOfRange):
                    error = await self._go_on_elsewhere(part)
                if isinstance(error, CorruptMessage) and self._options.skip_damaged:
                    await self._pass(part)
                    continue
                if error is not None and not (error.retriable or isinstance(error, UnknownTopicOrPartition)):
                    self.fail(error)
                    return
                if error is not None:
                    await anyio.sleep(AGAIN_S)

    async def _read(self, part: Part) -> DduomqError | None:
        """Read until the stream ends; why it did, None if somebody here ended it."""
        ended = anyio.Event()
        options, position = self._options, part.decoder.position
        topic, partition = part.id
        stream: AnswerStream | None = None

        def on_frame() -> None:
            if stream is not None and stream.error is not None:
                ended.set()
            self._queue(part)

        push = Push(
            topic,
            partition,
            position,
            options.credits,
            options.max_bytes,
            options.isolation,
            filter=None if part.is_retry else options.filter,  # what comes again has matched once
            topic_id=part.topic_id,
        )
        try:
            connection = await self._wire.leader(topic, partition)
            with anyio.CancelScope(shield=True):  # one that has left must be known, or nobody could end it
                stream = await connection.open_stream(push, on_frame)
        except DduomqError as error:
            self._wire.heard(LedBy(topic, partition), error, None)
            return error
        assert stream is not None
        if part.is_closed or part.decoder.position != position:
            self._tasks.start_soon(stream.end, Credit(stream.correlation, -1))
            return None
        part.restart(stream)
        on_frame()
        await ended.wait()
        if part.stream is not stream:
            return None
        if stream.error is not None:
            self._wire.heard(LedBy(topic, partition), stream.error, None)
        return stream.error

    def follow_leaders(self) -> None:
        """Leaders may be others now: streams of those that were it end, and begin anew where they ended."""
        for part in self.parts.values():
            leader, stream = self._wire.routes.leader(*part.id), part.stream
            if stream is None or stream.error is not None or leader is None or leader.node_id == stream.node_id:
                continue
            last_word = Credit(stream.correlation, -1)
            self._tasks.start_soon(stream.end, last_word, NotLeader(f"node {stream.node_id} leads it no more"))

    async def _go_on_elsewhere(self, part: Part) -> DduomqError | None:
        try:
            offset: int = await self.reset(part)
        except DduomqError as error:
            return error
        part.seek(offset)
        return None

    async def _pass(self, part: Part) -> None:
        """Go on behind the damaged record, once all that came before it is handed out."""
        while part.stream is not None and part.stream.frames and not part.is_closed:  # noqa: ASYNC110  # it is rare
            await anyio.sleep(AGAIN_S)
        if not part.is_closed:
            await self.skipped(part)
            part.decoder.seek(part.decoder.position + 1)

    async def seek(self, part: Part, offset: int) -> None:
        """Go on at `offset`, forward or back."""
        stream = part.stream
        part.seek(offset)
        part.stream = None
        if stream is not None:
            await stream.end(Credit(stream.correlation, -1))

    def fail(self, error: BaseException) -> None:
        """The consumer can't go on; whoever asks for records is told."""
        self.failure = self.failure or error
        self.wake()

    # --- handing out --------------------------------------------------------------------------------

    def _queue(self, part: Part) -> None:
        if part.has_more and not (part.is_queued or part.is_paused or part.is_closed):
            part.is_queued = True
            self._ready.append(part)
            self.wake()

    def wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def resume(self, part: Part) -> None:
        part.is_paused = False
        self._queue(part)

    def next(self) -> Record | None:
        """The next record if one is here. Raises what made the consumer fail, `CorruptMessage` among it."""
        part = self._current
        while True:
            if part is not None and not part.is_closed:
                if part.is_paused:
                    pass
                elif part.at < len(part.batch):
                    return part.take()
                else:
                    self._finish(part)
                    self._queue(part)  # behind the others: nobody starves
            if self.failure is not None:
                raise self.failure
            if not self._ready:
                self._current = None
                return None
            part = self._current = self._ready.popleft()
            part.is_queued = False
            if part.at == len(part.batch):
                part.load(self._chosen)

    def _finish(self, part: Part) -> None:
        part.finish_batch()
        if part not in self._indebted:
            self._indebted[part] = None
            if self._pay is not None:
                self._pay.set()

    def _chosen(self, records: list[Record]) -> list[Record]:
        if self._shown is not None:
            records = [shown for record in records if (shown := self._shown(record)) is not None]
        if self._options.latest_only:
            newest = {(record.topic, record.key): record for record in records}
            records = [record for record in records if record.key is None or newest[record.topic, record.key] is record]
        return records

    async def wait(self) -> None:
        """Until there may be something."""
        if self._ready or self.failure is not None:
            return
        self._news = self._news or anyio.Event()
        await self._news.wait()

    def stop(self, parts: Iterable[Part]) -> None:
        """Hand out nothing more of them."""
        for part in parts:
            part.close()

    async def work_ended(self) -> None:
        """Until the work on a record has ended."""
        ended = anyio.Event()
        for part in self.parts.values():
            part.on_done = ended.set
        await ended.wait()

    async def close(self) -> None:
        """End all streams."""
        for part in self.parts.values():
            part.close()
            if part.stream is not None:
                await part.stream.end(Credit(part.stream.correlation, -1))

    # --- credits ------------------------------------------------------------------------------------

    async def pay(self) -> None:
        """For ever: give credits back as records are handed out."""
        while True:
            indebted, self._indebted = self._indebted, {}
            for part in indebted:
                stream = part.stream
                owed = 0 if stream is None or part.is_closed else part.owed(max(1, self._options.credits // 2))
                if owed and stream is not None:
                    await stream.tell(Credit(stream.correlation, owed))
            if not self._indebted:
                self._pay = anyio.Event()
                await self._pay.wait()
                self._pay = None
