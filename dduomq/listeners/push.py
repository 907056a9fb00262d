"""Pushing: one partition's records go out as they come, as many as the client has given credits for.

Always true: nothing is sent while no credits are left, or while the client has not taken what was sent before; a
stream ends with its connection, by the client's word, or with one error.
"""

from collections.abc import Callable

import trio

from dduomq.actors.partition_messages import FetchPlan
from dduomq.errors import DduomqError, InvalidRequest
from dduomq.limits import CREDITS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_MS_MAX
from dduomq.listeners.admit import Context
from dduomq.listeners.connection import Connection, FilePart
from dduomq.listeners.fetch import INLINE_READ_BYTES_MAX, Wanted, Wish, gather
from dduomq.listeners.services import Services
from dduomq.listeners.sifting import sift_plan
from dduomq.query.filter import compile_filter
from dduomq.wire import frame, native
from dduomq.wire.native_groups import Push, Pushed


class PushStream:
    """One stream. `run` lives as long as it does."""

    __slots__ = (
        "_connection", "_context", "_correlation", "_credits", "_filter", "_more", "_offset", "_push", "_scope",
        "_services",
    )  # fmt: skip

    def __init__(
        self, services: Services, context: Context, connection: Connection, correlation: int, push: Push
    ) -> None:  # fmt: skip
        """Raises `InvalidFilter`, or `InvalidRequest` for credits that can't be."""
        self._services = services
        self._context = context
        self._connection = connection
        self._correlation = correlation
        self._push = push
        self._filter = None if push.filter is None else compile_filter(push.filter)
        self._offset = push.offset
        self._credits = push.credits
        self._more: trio.Event | None = None
        self._scope = trio.CancelScope()
        _check(push.credits)

    def credit(self, credits: int) -> None:
        """The client has done so much; a negative number ends the stream. Raises `InvalidRequest`."""
        if credits < 0:
            self._scope.cancel()
            return
        _check(credits)
        self._credits = min(self._credits + credits, CREDITS_MAX)
        if self._more is not None and self._credits > 0:
            self._more.set()
            self._more = None

    async def run(self, ended: Callable[[], object]) -> None:
        """Send until the end; `ended` is called then."""
        try:
            with self._scope:
                while not self._connection.closed:
                    await self._send_next()
        except DduomqError as error:
            header = native.error_header(self._correlation, error.code, error.message)
            self._connection.send(frame.write(header))
        finally:
            ended()

    async def _send_next(self) -> None:
        if self._credits <= 0:
            self._more = trio.Event()
            await self._more.wait()
        await self._connection.drained()
        push = self._push
        wanted = Wanted(push.topic, push.partition, self._offset, push.max_bytes, push.leader_epoch)
        wish = Wish([wanted], push.isolation, 1, min(push.max_bytes, FETCH_BYTES_MAX), FETCH_WAIT_MS_MAX)
        self._services.routes.check_id(push.topic, push.topic_id)
        [found] = await gather(self._services, self._context, wish)
        if isinstance(found, DduomqError):
            raise found
        try:
            self._services.routes.check_id(push.topic, push.topic_id)  # it may have waited long
        except DduomqError:
            found.close()
            raise
        if found.lease is not None:
            await self._send(found)
            self._offset = found.next_offset

    async def _send(self, plan: FetchPlan) -> None:
        """One frame. Its cost: the offsets it covers; of what was filtered, the records."""
        assert plan.lease is not None
        if self._filter is None and plan.size > INLINE_READ_BYTES_MAX:
            head = self._head(plan, plan.size, plan.next_offset - self._offset)
            self._connection.send_parts([head, FilePart(plan.lease, plan.position, plan.size)])
            return
        try:
            if self._filter is None:
                data, cost = plan.lease.read(plan.position, plan.size), plan.next_offset - self._offset
            else:
                sifted = await sift_plan(self._services, plan, self._filter)
                data, cost = sifted.data, sifted.records
        finally:
            plan.close()
        self._connection.send(self._head(plan, len(data), cost) + data)

    def _head(self, plan: FetchPlan, size: int, cost: int) -> bytes:
        self._credits -= cost
        mark = plan.high_watermark if plan.is_mark_known else native.UNKNOWN_MARK
        pushed = Pushed(cost, mark, plan.last_stable_offset, plan.log_start_offset, size, plan.aborted)
        return frame.write(native.answer_header(self._correlation, pushed), size)


def _check(credits: int) -> None:
    if not 0 <= credits <= CREDITS_MAX:
        raise InvalidRequest(f"{credits} credits can't be given: 0 to {CREDITS_MAX} can")
