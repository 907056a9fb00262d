"""A queue: many members work on the same partitions, each on records of its own.

    async with mq.queue("orders", group="workers") as queue:
        async for record in queue:
            ...

Always true: a record is worked on by one member at a time, as long as the locks are kept; it is done when the next one
is asked for or the block is left in good order, or by its own `ack`; what is not done goes to another member, at once
when the block is left.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from inspect import isawaitable
from typing import Any

import anyio
import anyio.abc
import attrs
from anyio import to_thread

from dduomq.client.expiry import FOREVER, TimeToLive
from dduomq.client.handlers import Handler, is_async
from dduomq.client.queue_life import QueueLife, QueueOptions
from dduomq.client.queue_record import QueueRecord
from dduomq.client.record import Record
from dduomq.client.tasks import Background, flat_tasks
from dduomq.client.wire import Wire
from dduomq.errors import NetworkError, OutcomeUnknown, RecordNotHeld, UsageError
from dduomq.limits import (
    QUEUE_DELIVERIES_MAX,
    QUEUE_LOCK_MS_MAX,
    QUEUE_LOCK_MS_MIN,
    QUEUE_LOCKS_MAX,
)
from dduomq.wire import native
from dduomq.wire.native_queue import ACCEPT, RELEASE

CLOSE_S = 5.0
JOIN_S = 60.0
BACKOFF_MAX_S = 3_600.0


class Queue:
    """Made by `Client.queue`. Iterate over it, or `pull`, or `run` a handler; one of them at a time."""

    def __init__(self, life: QueueLife, *, auto_ack: bool) -> None:
        self._life = life
        self._auto_ack = auto_ack
        self._handed: list[QueueRecord] = []

    # --- records ------------------------------------------------------------------------------------

    def __aiter__(self) -> "Queue":
        return self

    async def __anext__(self) -> QueueRecord:
        self._finish()
        record = await self._one()
        self._handed.append(record)
        return record

    def _finish(self, kind: int = ACCEPT) -> None:
        """What was handed out before is done, where that goes without saying."""
        for record in self._handed:
            if (self._auto_ack or kind == RELEASE) and not record.is_settled and not record.is_lost:
                record.say(kind)
            self._life.leave_off(record)
        self._handed.clear()

    async def _one(self) -> QueueRecord:
        while (record := self._life.next()) is None:
            await self._more()
        return record

    async def _more(self) -> None:
        """Wait for records. Raises what the group has refused."""
        if self._life.failure is not None:
            raise self._life.failure
        await self._life.wait()

    async def pull(self, max_records: int = 100, timeout: float | None = None) -> list[QueueRecord]:
        """Up to `max_records` that are here, or the first to come; [] after `timeout` seconds without any.

        They are done when the next are asked for, or by their own `ack`.
        """
        self._finish()
        found: list[QueueRecord] = []
        with anyio.move_on_after(timeout):
            while not found:
                while len(found) < max_records and (record := self._life.next()) is not None:
                    found.append(record)
                if not found:
                    await self._more()
        self._handed += found
        return found

    async def run(self, handler: Handler, *, concurrency: int = 1, backoff: float = 1.0) -> None:
        """For ever: call `handler(record)`, async or not, for each record, up to `concurrency` at once.

        A record is done when the handler returns, unless the handler has said otherwise. When it raises, the record
        comes again, here or elsewhere, after `backoff` seconds, twice as long each time, until its last delivery.
        """
        if concurrency < 1 or backoff < 0:
            raise UsageError("concurrency is at least 1, backoff is at least 0")
        in_thread = not is_async(handler)
        async with flat_tasks() as tasks:
            for _ in range(concurrency):
                tasks.start_soon(self._work, handler, in_thread, backoff)
        assert self._life.failure is not None
        raise self._life.failure

    async def _work(self, handler: Handler, in_thread: bool, backoff: float) -> None:
        """One record after another, until there is no hope of more."""
        while self._life.failure is None:
            record = self._life.next()
            if record is None:
                await self._life.wait()
                continue
            try:
                await self._handle(handler, in_thread, record, backoff)
            except (RecordNotHeld, OutcomeUnknown):
                pass  # another member has it, or will, or it is done: in any case it is not ours
            finally:
                self._life.leave_off(record)

    async def _handle(self, handler: Handler, in_thread: bool, record: QueueRecord, backoff: float) -> None:
        try:
            if in_thread:
                await to_thread.run_sync(handler, record)
            elif isawaitable(result := handler(record)):
                await result
        except Exception as error:
            if not record.is_settled:
                await record.nack(min(backoff * 2 ** (record.delivery_count - 1), BACKOFF_MAX_S), error)
        else:
            if not record.is_settled:
                await record.ack()

    # --- its life -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def living(self, tasks: anyio.abc.TaskGroup) -> AsyncIterator["Queue"]:
        """From joining to leaving. Who is cancelled lives on until his block has ended: handlers may take a while."""
        life, background = self._life, Background(tasks)
        try:
            for task in (life.words.run, life.live, life.take_always, life.keep_locks):
                background.start_soon(task)
            await self._join()
            yield self
            self._finish()
            with anyio.move_on_after(CLOSE_S):
                await life.words.told()
        finally:
            background.end()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
                self._finish(RELEASE)
                await life.leave()

    async def _join(self) -> None:
        with anyio.move_on_after(JOIN_S) as scope:
            await self._life.joined.wait()
        if scope.cancelled_caught:
            raise NetworkError(f"the group's coordinator could not be reached for {JOIN_S:.0f} s")
        if self._life.failure is not None:
            raise self._life.failure


@attrs.frozen(kw_only=True)
class QueueSettings:
    """What the user said; see `ReadingClient.queue`. Raises `UsageError` for what can't be."""

    topics: tuple[str, ...]
    group: str
    start: str | datetime
    auto_ack: bool
    prefetch: int
    lock: float
    deliveries: int | None
    session_timeout: float
    zone: str | None
    on_lost: Callable[[QueueRecord], None] | None

    def __attrs_post_init__(self) -> None:
        if not self.topics or not self.group:
            raise UsageError("a queue needs a topic and a group: mq.queue('orders', group='workers')")
        if isinstance(self.start, str) and self.start not in {"earliest", "latest"}:
            raise UsageError(f"a queue starts at 'earliest', 'latest' or a datetime, not at {self.start!r}")
        if not 1 <= self.prefetch <= QUEUE_LOCKS_MAX:
            raise UsageError(f"prefetch is 1 to {QUEUE_LOCKS_MAX}")
        if not QUEUE_LOCK_MS_MIN <= self.lock * 1000 <= QUEUE_LOCK_MS_MAX:
            raise UsageError(f"a lock is {QUEUE_LOCK_MS_MIN / 1000} to {QUEUE_LOCK_MS_MAX // 1000} seconds long")
        if self.deliveries is not None and not 1 <= self.deliveries <= QUEUE_DELIVERIES_MAX:
            raise UsageError(f"deliveries are 1 to {QUEUE_DELIVERIES_MAX}")

    def options(self) -> QueueOptions:
        start = str(int(self.start.timestamp() * 1000)) if isinstance(self.start, datetime) else self.start
        return QueueOptions(
            group=self.group, topics=self.topics, start=start, prefetch=self.prefetch, lock_ms=int(self.lock * 1000),
            deliveries=-1 if self.deliveries is None else self.deliveries,
            session_ms=int(self.session_timeout * 1000), zone=self.zone,
        )  # fmt: skip


@asynccontextmanager
async def queueing(
    settings: QueueSettings,
    wire: Wire,
    *,
    topic: Callable[[str], Awaitable[native.TopicMetadata]],
    member_id: str,
    deserialize: Callable[[Any], Any] | None,
    shown: Callable[[Record], Record | None] | None,
    wall_ms: Callable[[], int],
) -> AsyncIterator[Queue]:
    """A queue from joining to leaving. `topic(name)` gives metadata, and makes the topic where that is allowed."""
    ttls = {name: TimeToLive.of(await topic(name)) for name in settings.topics}
    life = QueueLife(
        settings.options(), member_id, ask=wire.ask, post=wire.post, deserialize=deserialize, shown=shown,
        has_run_out=lambda record: ttls.get(record.topic, FOREVER).has_run_out(record, wall_ms()),
        is_buried=lambda record: ttls.get(record.topic, FOREVER).is_dead,
    )  # fmt: skip
    life.on_lost = settings.on_lost
    async with flat_tasks() as tasks, Queue(life, auto_ack=settings.auto_ack).living(tasks) as queue:
        yield queue
