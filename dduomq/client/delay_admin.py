"""Delayed messages, from a client: which wait, taking one back, giving it another time."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from dduomq.client.patience import Patient
from dduomq.errors import UsageError
from dduomq.wire import native
from dduomq.wire.delay import length_ms, moment_ms
from dduomq.wire.native_delay import (
    CancelDelayed,
    DelayedMessage,
    DelayedMessages,
    ListDelayed,
    Rescheduled,
    RescheduleDelayed,
)

PAGE = 1_000


class DelayAdmin(Patient):
    """Every method raises the broker's error."""

    async def delayed(self, topic: str | None = None) -> AsyncIterator[DelayedMessage]:
        """Those that wait, for one topic or all, the earliest first."""
        after = ""
        while True:
            page = await self._patiently(ListDelayed(topic, PAGE, after), DelayedMessages)
            for message in page.messages:
                yield message
            if len(page.messages) < PAGE:
                return
            after = page.messages[-1].delay_id

    async def count_delayed(self) -> int:
        """How many wait."""
        return (await self._patiently(ListDelayed(None, 1), DelayedMessages)).count

    async def cancel_delayed(self, delay_id: str) -> None:
        """It never comes. Raises `DelayedNotFound` when it is gone already."""
        await self._patiently(CancelDelayed(delay_id), native.Done)

    async def reschedule(
        self, delay_id: str, *, delay: timedelta | float | None = None, deliver_at: datetime | int | None = None
    ) -> str:
        """It comes so long from now, or at that time; its new id. Raises `DelayedNotFound`, `InvalidDelay`."""
        if (delay is None) == (deliver_at is None):
            raise UsageError("give a delay, or the time in deliver_at")
        if delay is not None:
            at = self._wall_ms() + length_ms(delay)
        else:
            at = moment_ms(deliver_at) if isinstance(deliver_at, datetime) else int(deliver_at or 0)
        return (await self._patiently(RescheduleDelayed(delay_id, at), Rescheduled)).delay_id
