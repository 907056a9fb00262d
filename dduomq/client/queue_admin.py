"""Queues, from a client: how far share groups are."""

from dduomq.client.patience import Patient
from dduomq.wire.native_queue import DescribeQueue, QueueDescription


class QueueAdmin(Patient):
    """What an operator's tool needs of queues; every method raises the broker's error."""

    async def describe_queue(self, group: str) -> QueueDescription:
        """How far a share group is in each partition, and what its members have in hand. Raises `GroupNotFound`."""
        return await self._patiently(DescribeQueue(group), QueueDescription)
