"""Handlers at work: many at once, yet in order where order is wanted.

A lane is what must go one after another: a partition, a key, or one record alone. Always true: at most `concurrency`
handlers run at once, and at most `LANE_RECORDS_MAX` records for each of them wait; a lane's records are handled in
the order of their offsets, each until it succeeds or steps aside; a record is acked after its handler has returned,
and not before.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Literal, TypeAlias

import anyio
import anyio.abc
import attrs
from anyio import to_thread

from dduomq.client.part import GroupRecord, said
from dduomq.client.record import Record
from dduomq.client.tasks import flat_tasks
from dduomq.errors import UsageError

LOG = logging.getLogger("dduomq")
Handler: TypeAlias = Callable[[Any], Any]
Ordered: TypeAlias = Literal["partition", "key", "none"]
OnFailure: TypeAlias = Literal["retry", "dead-letter", "stop"]
RETRIES = 3
LANE_RECORDS_MAX = 16
BACKOFF_MAX_S = 60.0


@attrs.frozen(kw_only=True)
class HandlerOptions:
    """See `Consumer.run`; what is None there has been chosen by `of`."""

    concurrency: int
    ordered: Ordered
    on_failure: OnFailure
    retries: int
    backoff: float

    @classmethod
    def of(
        cls,
        *,
        concurrency: int,
        ordered: Ordered | None,
        on_failure: OnFailure | None,
        retries: int | None,
        backoff: float,
        can_set_aside: bool,
    ) -> "HandlerOptions":
        """Order that was asked for is kept at any price; else a record that fails steps aside, if it can."""
        if on_failure is None:
            on_failure = "retry" if ordered in {None, "none"} and can_set_aside else "stop"
        if on_failure != "stop" and not can_set_aside:
            raise UsageError(f"on_failure={on_failure!r} needs a group, and retry: this consumer sets nothing aside")
        if retries is None:
            retries = 0 if on_failure == "retry" else RETRIES
        return cls(
            concurrency=concurrency, ordered=ordered or "partition", on_failure=on_failure, retries=retries,
            backoff=backoff,
        )  # fmt: skip

    def __attrs_post_init__(self) -> None:
        if self.concurrency < 1 or self.retries < 0 or self.backoff < 0:
            raise UsageError("concurrency is at least 1, retries and backoff are at least 0")
        if self.ordered not in {"partition", "key", "none"}:
            raise UsageError(f"ordered is 'partition', 'key' or 'none', not {self.ordered!r}")
        if self.on_failure not in {"retry", "dead-letter", "stop"}:
            raise UsageError(f"on_failure is 'retry', 'dead-letter' or 'stop', not {self.on_failure!r}")


class _Lanes:
    """Records that wait for a handler."""

    def __init__(self, handler: Handler, options: HandlerOptions, tasks: anyio.abc.TaskGroup) -> None:
        self._handler = handler
        self._in_thread = not is_async(handler)
        self._options = options
        self._tasks = tasks
        self._lanes: dict[Any, deque[GroupRecord]] = {}
        self._waiting = 0
        self._room = anyio.Event()

    def _lane_of(self, record: Record) -> Any:
        match self._options.ordered:
            case "partition":
                return record.topic, record.partition
            case "key" if record.key is not None:
                return record.topic, record.key
        return record.topic, record.partition, record.offset

    async def put(self, record: GroupRecord) -> None:
        """Wait until it can be taken: by its lane, or by a handler that is free."""
        lane = self._lane_of(record)
        options = self._options
        while self._waiting >= options.concurrency * LANE_RECORDS_MAX or (
            lane not in self._lanes and len(self._lanes) >= options.concurrency
        ):
            self._room = anyio.Event()
            await self._room.wait()
        self._waiting += 1
        if lane in self._lanes:
            self._lanes[lane].append(record)
            return
        self._lanes[lane] = deque([record])
        self._tasks.start_soon(self._work, lane)

    async def _work(self, lane: Any) -> None:
        """Handle a lane until it is empty."""
        waiting = self._lanes[lane]
        while waiting:
            record = waiting.popleft()
            if not record.is_lost:
                await self._handle(record)
                await record.ack()
            self._waiting -= 1
            self._room.set()
        del self._lanes[lane]
        self._room.set()

    async def _handle(self, record: GroupRecord) -> None:
        tries = 0
        while True:
            try:
                if self._in_thread:
                    await to_thread.run_sync(self._handler, record)
                else:
                    result = self._handler(record)
                    if isawaitable(result):
                        await result
            except Exception as error:
                if record.is_lost:  # another member has it, or will
                    return
                if tries >= self._options.retries:
                    await self._fail(record, error)
                    return
                await anyio.sleep(min(self._options.backoff * 2**tries, BACKOFF_MAX_S))
                tries += 1
            else:
                return

    async def _fail(self, record: GroupRecord, error: Exception) -> None:
        match self._options.on_failure:
            case "retry":
                LOG.warning("%r failed, and steps aside", record, exc_info=error)
                await record.nack(error=error)
            case "dead-letter":
                LOG.error("%r failed, and is a dead letter now", record, exc_info=error)
                await record.reject(said(error))
            case "stop":
                raise error


def is_async(handler: Handler) -> bool:
    """Whether calling it gives something to await."""
    call = getattr(handler, "__call__", None)  # noqa: B004  # an object whose class says `async def __call__`
    return iscoroutinefunction(handler) or iscoroutinefunction(call)


async def run_handlers(take: Callable[[], Awaitable[Record]], handler: Handler, options: HandlerOptions) -> None:
    """For ever; a handler's error that retrying has not mended comes out as itself."""
    async with flat_tasks() as tasks:
        lanes = _Lanes(handler, options, tasks)
        while True:
            record = await take()
            assert isinstance(record, GroupRecord)
            await lanes.put(record)
