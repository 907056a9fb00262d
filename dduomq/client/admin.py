"""Topics and their settings, from a client; with what it inherits, all that an operator does."""

from collections.abc import Mapping, Sequence
from typing import Any

from dduomq.client.cluster_admin import ClusterAdmin
from dduomq.client.consumer import Start, find_offset
from dduomq.client.delay_admin import DelayAdmin
from dduomq.client.group_admin import GroupAdmin
from dduomq.client.letter_admin import LetterAdmin
from dduomq.client.schedule_admin import ScheduleAdmin
from dduomq.errors import from_code
from dduomq.wire import native

TIMEOUT_MS = 30_000


class Admin(GroupAdmin, DelayAdmin, ScheduleAdmin, LetterAdmin, ClusterAdmin):
    """What an operator's tool needs; every method raises the broker's error."""

    async def _one(self, body: object, answer: type) -> Any:
        plain, _ = await self._ask(body, TIMEOUT_MS)
        return native.from_plain(answer, plain)

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 0,
        replication: int = 0,
        config: Mapping[str, str] | None = None,
        validate_only: bool = False,
        assignment: Sequence[Sequence[int]] = (),
    ) -> native.TopicMetadata:
        """Make a topic; 0 means the broker's default. `assignment`: the replicas of each partition, by hand."""
        places = tuple(map(tuple, assignment))
        body = native.CreateTopic(name, partitions, replication, dict(config or {}), validate_only, places)
        created: native.TopicMetadata = await self._one(body, native.TopicMetadata)
        return created

    async def delete_topic(self, name: str) -> None:
        await self._one(native.DeleteTopic(name), native.Done)

    async def add_partitions(self, name: str, total: int) -> native.TopicMetadata:
        """Raise the number of partitions to `total`."""
        changed: native.TopicMetadata = await self._one(native.AddPartitions(name, total), native.TopicMetadata)
        return changed

    async def list_topics(self) -> list[native.TopicMetadata]:
        found: native.MetadataAnswer = await self._one(native.Metadata(None), native.MetadataAnswer)
        return list(found.topics)

    async def cluster(self) -> native.MetadataAnswer:
        """The cluster's id and nodes, and all topics."""
        found: native.MetadataAnswer = await self._one(native.Metadata(None), native.MetadataAnswer)
        return found

    async def describe_topic(self, name: str) -> native.TopicDescription:
        """Marks, sizes and state of each partition, and every setting."""
        found: native.TopicDescription = await self._one(native.DescribeTopic(name), native.TopicDescription)
        return found

    async def alter_topic(
        self,
        name: str,
        set: Mapping[str, str] | None = None,
        unset: tuple[str, ...] = (),
    ) -> None:
        """Set configuration keys, or put them back to their default."""
        await self._one(native.AlterTopic(name, dict(set or {}), tuple(unset)), native.Done)

    async def purge(self, name: str, partition: int | None = None, before: int = -1) -> dict[int, int]:
        """Delete records before an offset (-1: all); the new first offset of each partition."""
        if partition is None:
            partitions = [part.partition for part in (await self.describe_topic(name)).partitions]
        else:
            partitions = [partition]
        body = native.DeleteRecords(tuple(native.PurgePart(name, at, before) for at in partitions))
        purged: native.Purged = await self._one(body, native.Purged)
        for at, part in zip(partitions, purged.parts, strict=True):
            if part.code:
                raise from_code(part.code, f"{name}-{at}: {part.message or ''}")
        return {at: part.log_start_offset for at, part in zip(partitions, purged.parts, strict=True)}

    async def offset(self, name: str, partition: int, start: Start) -> int:
        """The offset that 'earliest', 'latest', or a datetime means."""
        return await find_offset(self._ask, name, partition, start, TIMEOUT_MS)

    async def restore_log(self, name: str, partition: int) -> None:
        """Bring a log back that a disk failure took offline."""
        await self._one(native.RestoreLog(name, partition), native.Done)
