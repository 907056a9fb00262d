"""Queues, from a client: how far share groups are."""

from collections.abc import Mapping

from dduomq.client.patience import Patient
from dduomq.errors import GroupNotFound
from dduomq.wire import native
from dduomq.wire.native_queue import DescribeQueue, MoveQueue, QueueDescription, QueuePart

SHARE = "share"


class QueueAdmin(Patient):
    """What an operator's tool needs of queues; every method raises the broker's error."""

    async def describe_queue(self, group: str) -> QueueDescription:
        """How far a share group is in each partition, and what its members have in hand. Raises `GroupNotFound`."""
        return await self._patiently(DescribeQueue(group), QueueDescription)

    async def move_queue(self, group: str, topic: str, starts: Mapping[int, int | None]) -> None:
        """Let a share group without members go on elsewhere, by partition; None: as if it had never been there."""
        places = tuple((at, -1 if offset is None else offset) for at, offset in starts.items())
        await self._patiently(MoveQueue(group, topic, places), native.Done)

    async def queue_parts(self, group: str) -> dict[tuple[str, int], QueuePart]:
        """By topic and partition; {} where there is no such group."""
        try:
            described = await self.describe_queue(group)
        except GroupNotFound:
            return {}
        return {(part.topic, part.partition): part for part in described.parts}
