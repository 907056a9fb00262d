"""Recurring messages, from a client: adding, listing, pausing, deleting."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from dduomq.client.partitioners import by_key
from dduomq.client.patience import Patient
from dduomq.client.record import Message, headers_of
from dduomq.client.serializers import AUTO
from dduomq.errors import InvalidSchedule
from dduomq.wire import native
from dduomq.wire.delay import length_ms
from dduomq.wire.native_schedule import (
    AddSchedule,
    DeleteSchedule,
    ListSchedules,
    PauseSchedule,
    ScheduledHeader,
    ScheduleListing,
    SchedulesListed,
)


class ScheduleAdmin(Patient):
    """Every method raises the broker's error."""

    async def add_schedule(
        self,
        name: str,
        topic: str,
        value: Any,
        *,
        cron: str | None = None,
        every: timedelta | float | None = None,
        timezone: str = "UTC",
        missed: str = "once",
        key: Any = None,
        headers: Mapping[str, bytes | str] | None = None,
        tag: str | None = None,
        partition: int | None = None,
        replace: bool = False,
    ) -> None:
        """Let a message come again and again: by a `cron` expression in its `timezone`, or `every` so many seconds.

        `missed`, of times at which no node was there: "skip" them, let one come "once", or "all" of them. A name means
        one schedule; `replace` another one. The value is bytes or text. Raises `InvalidSchedule`, `ScheduleExists`.
        """
        if (cron is None) == (every is None):
            raise InvalidSchedule("give a cron expression, or an interval in `every`")
        rule = f"cron {cron}" if cron is not None else f"every {length_ms(every or 0)}ms"
        sent = None if key is None else AUTO.dumps(key if isinstance(key, bytes | str) else str(key))
        count = await self._partition_count(topic)
        if partition is None:
            partition = 0 if sent is None else by_key(sent, count)
        given = tuple(ScheduledHeader(*one) for one in headers_of(Message(value, headers=headers or {}, tag=tag)))
        body = AddSchedule(
            name, topic, partition, sent, AUTO.dumps(value), given, rule, timezone, missed, replace=replace
        )  # fmt: skip
        await self._patiently(body, native.Done)

    async def _partition_count(self, topic: str) -> int:
        found = await self._patiently(native.Metadata((topic,), create=True), native.MetadataAnswer)
        return max(1, len(found.topics[0].partitions))

    async def schedules(self) -> list[ScheduleListing]:
        """All there are, by name."""
        return list((await self._patiently(ListSchedules(), SchedulesListed)).schedules)

    async def pause_schedule(self, name: str) -> None:
        """Nothing comes until it is resumed. Raises `ScheduleNotFound`."""
        await self._patiently(PauseSchedule(name, is_paused=True), native.Done)

    async def resume_schedule(self, name: str) -> None:
        """It goes on with its next time; what fell into the pause does not come. Raises `ScheduleNotFound`."""
        await self._patiently(PauseSchedule(name, is_paused=False), native.Done)

    async def delete_schedule(self, name: str) -> None:
        """Nothing comes any more. Raises `ScheduleNotFound`."""
        await self._patiently(DeleteSchedule(name), native.Done)
