"""A consumer: records of the partitions that its group gives it, and the word that the work on them is done.

    async with mq.consumer("orders", group="billing") as consumer:
        async for record in consumer:
            ...

Always true: a record counts as done when the next one is asked for or the block is left in good order, or by its own
`ack`; only what is done is committed, and nothing behind it. Leaving the block commits, leaves the group, and leaves
no task behind; cancelling it anywhere does the same, within `CLOSE_S` seconds.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any, Protocol, TypeAlias

import anyio
import anyio.abc
import attrs

from dduomq.client.expiry import FOREVER, RUN_OUT
from dduomq.client.feed import Feed
from dduomq.client.group_events import Assigned, Event, Expired, Lost, Revoked, Skipped
from dduomq.client.handlers import Handler, HandlerOptions, OnFailure, Ordered, run_handlers
from dduomq.client.part import GroupRecord, Part, ReturnedRecord, TopicPartition
from dduomq.errors import DduomqError, NetworkError

CLOSE_S = 5.0
JOIN_S = 60.0
EVENTS_MAX = 1_000
Callback: TypeAlias = Callable[[Any], Awaitable[None] | None]


class Life(Protocol):
    """Where a consumer's partitions come from, and who keeps its place."""

    joined: anyio.Event

    async def live(self) -> None: ...

    async def commit_now_and_then(self) -> None: ...

    async def commit(self, parts: Iterable[Part]) -> None: ...

    async def leave(self) -> None: ...

    async def elsewhere(self, part: Part) -> int: ...


@attrs.frozen(kw_only=True)
class ConsumerOptions:
    """`rate` in records a second; `max_in_flight`: how many records may be worked on at once. `topics`: that it reads,
    None: by a pattern, so nobody knows.
    """

    wall_ms: Callable[[], int]
    auto_ack: bool = True
    max_in_flight: int | None = None
    rate: float | None = None
    on_assign: Callback | None = None
    on_revoke: Callback | None = None
    on_lost: Callback | None = None
    can_set_aside: bool = False
    topics: frozenset[str] | None = None


class Consumer:
    """Made by `Client.consumer`. Iterate over it, or `pull`, or `run` a handler; one of them at a time."""

    def __init__(self, options: ConsumerOptions) -> None:
        self._options = options
        self._feed: Feed
        self._life: Life
        self._handed: list[GroupRecord] = []
        self._listeners: list[deque[Event]] = []
        self._past: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._told = anyio.Event()
        self._calling = anyio.Lock()
        self._next_at = 0.0
        self._away: GroupRecord | None = None  # one that is to be set aside before anything else is handed out

    def bind(self, feed: Feed, life: Life) -> None:
        """What it works with; called once."""
        self._feed = feed
        self._life = life

    # --- records ------------------------------------------------------------------------------------

    def __aiter__(self) -> "Consumer":
        return self

    async def __anext__(self) -> GroupRecord:
        if self._handed:
            self._finish()
        record = await self._one()
        self._handed.append(record)
        return record

    def _finish(self) -> None:
        """What was handed out before is done, where that goes without saying."""
        if self._options.auto_ack:
            for record in self._handed:
                record.done()
        self._handed.clear()

    async def _room(self, wanted: int) -> int:
        """How many records may be handed out now, of those that are wanted; waits until it is one at least."""
        most = self._options.max_in_flight
        if most is not None:
            while (busy := sum(part.progress.in_flight for part in self._feed.parts.values())) >= most:
                await self._feed.work_ended()
            wanted = min(wanted, most - busy)
        if self._options.rate is not None:
            await anyio.sleep(max(0.0, self._next_at - anyio.current_time()))
        return wanted

    def _took(self, count: int) -> None:
        """So many were handed out: the next ones come no sooner than the rate allows."""
        if self._options.rate is not None:
            self._next_at = max(anyio.current_time(), self._next_at) + count / self._options.rate

    async def pull(self, max_records: int = 500, timeout: float | None = None) -> list[GroupRecord]:
        """Up to `max_records` that are here, or the first to come; [] after `timeout` seconds without any.

        They are done when the next are asked for, or by their own `ack`.
        """
        self._finish()
        found: list[GroupRecord] = []
        with anyio.move_on_after(timeout):
            while not found:
                room = await self._room(max_records)
                while len(found) < room and (record := await self._next()) is not None:
                    found.append(record)
                if not found:
                    await self._feed.wait()
        self._took(len(found))
        self._handed += found
        return found

    async def run(
        self,
        handler: Handler,
        *,
        concurrency: int = 1,
        ordered: Ordered | None = None,
        on_failure: OnFailure | None = None,
        retries: int | None = None,
        backoff: float = 0.5,
    ) -> None:
        """For ever: call `handler(record)`, async or not, for each record; it is done when the handler returns.

        `ordered`: "partition", one after another in each; "key", one after another for each key; "none". None: as
        "partition", but a record that fails may be overtaken.
        `on_failure`: "retry": a record whose handler raises comes again later, as the consumer's `retry` says, and in
        the end is a dead letter; "dead-letter": it is one at once; "stop": the error ends the consumer, and nothing
        behind the record is committed. None: "stop" where an order was asked for, for it would be broken; else "retry".
        `retries`: before that the handler is called again, so often, after `backoff` seconds, twice as long each time;
        nothing of its lane overtakes it. None: 0 for "retry", else 3.
        """
        options = HandlerOptions.of(
            concurrency=concurrency, ordered=ordered, on_failure=on_failure, retries=retries, backoff=backoff,
            can_set_aside=self._options.can_set_aside,
        )  # fmt: skip
        await run_handlers(self._one, handler, options)

    async def _one(self) -> GroupRecord:
        """The next record, to be acked by whoever takes it."""
        limited = self._options.rate is not None or self._options.max_in_flight is not None
        while True:
            if limited:
                await self._room(1)
            record = await self._next()
            if record is not None:
                self._took(1)
                return record
            await self._feed.wait()

    async def _next(self) -> GroupRecord | None:
        """The next record that is here and still worth the work."""
        ttls = self._feed.ttls
        while True:
            if self._away is not None:
                await self._send_away(self._away)
            record: GroupRecord | None = self._feed.next()  # type: ignore[assignment]  # the feed's are GroupRecords
            if isinstance(record, ReturnedRecord) and not self._is_read(record.topic):
                self._away = record
                continue
            if record is None or not (record.headers or ttls):
                return record
            ttl = ttls.get(record.topic, FOREVER)
            if not ttl.has_run_out(record, self._options.wall_ms()):
                return record
            if ttl.is_dead and self._options.can_set_aside:
                self._away = record
            else:
                record.done()
                await self.tell(Expired(record))

    def _is_read(self, topic: str) -> bool:
        """Whether records of that topic are for us; where a pattern says so, nobody here can tell."""
        return self._options.topics is None or topic in self._options.topics

    async def _send_away(self, record: GroupRecord) -> None:
        """It is not handed out: what comes again is for another member, what is too old is dead."""
        if isinstance(record, ReturnedRecord) and not self._is_read(record.topic):
            await record.pass_on()
        else:
            await record.reject(RUN_OUT)
            await self.tell(Expired(record))
        self._away = None

    # --- its place ----------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Commit now what is done."""
        await self._life.commit(list(self._feed.parts.values()))

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are ours now."""
        return sorted(place for place, part in self._feed.parts.items() if not part.is_closed)

    def position(self, topic: str, partition: int) -> int:
        """The offset that would be committed."""
        return self._feed.part(topic, partition).progress.position

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on from `offset`, forward or back; the next commit may move the group back."""
        part = self._feed.part(topic, partition)
        self._handed = [record for record in self._handed if record._part is not part]
        await self._feed.seek(part, offset)

    def pause(self, topic: str, partition: int) -> None:
        """Hand out nothing of it until `resume`; it stays ours."""
        self._feed.part(topic, partition).is_paused = True

    def resume(self, topic: str, partition: int) -> None:
        self._feed.resume(self._feed.part(topic, partition))

    # --- events -------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[Event]:
        """What happens, from the consumer's beginning on; see `dduomq.client.group_events`.

        Who is too slow, or comes too late, misses the oldest.
        """
        mine = self._past.copy()
        self._listeners.append(mine)
        try:
            while True:
                while mine:
                    yield mine.popleft()
                await self._told.wait()
        finally:
            self._listeners.remove(mine)

    async def tell(self, event: Event) -> None:
        """Something has happened."""
        for listener in (self._past, *self._listeners):
            listener.append(event)
        told, self._told = self._told, anyio.Event()
        told.set()
        callback, argument = self._callback(event)
        if callback is not None:
            async with self._calling:  # in the order in which it happened
                result = callback(argument)
                if isawaitable(result):
                    await result

    def _callback(self, event: Event) -> tuple[Callback | None, Any]:
        match event:
            case Assigned():
                return self._options.on_assign, sorted(event.positions)
            case Revoked():
                return self._options.on_revoke, list(event.partitions)
            case Lost():
                return self._options.on_lost, list(event.partitions)
        return None, None

    async def tell_skipped(self, part: Part) -> None:
        """A damaged record was passed."""
        await self.tell(Skipped(part.id, part.decoder.position))

    # --- its life -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def living(self, tasks: anyio.abc.TaskGroup) -> AsyncIterator["Consumer"]:
        """From joining to leaving."""
        is_good = False
        try:
            tasks.start_soon(self._life.live)
            tasks.start_soon(self._feed.pay)
            tasks.start_soon(self._life.commit_now_and_then)
            await self._join()
            yield self
            is_good = True
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
                if is_good:
                    self._finish()
                await self._leave(is_good)

    async def _leave(self, is_good: bool) -> None:
        """What ends the block in an error hides what goes wrong here."""
        try:
            await self._life.leave()
            await self._feed.close()
        except DduomqError:
            if is_good and self._feed.failure is None:
                raise

    async def _join(self) -> None:
        with anyio.move_on_after(JOIN_S) as scope:
            await self._life.joined.wait()
        if scope.cancelled_caught:
            raise NetworkError(f"the group's coordinator could not be reached for {JOIN_S:.0f} s")
        if self._feed.failure is not None:
            raise self._feed.failure
