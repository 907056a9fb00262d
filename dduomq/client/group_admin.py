"""Groups, from a client: who is in them, how far they are, and putting that right."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import anyio
import anyio.lowlevel
import attrs

from dduomq.client.consumer import Start, find_offset
from dduomq.client.patience import TIMEOUT_MS
from dduomq.client.queue_admin import SHARE, QueueAdmin
from dduomq.errors import GroupNotEmpty, UsageError, from_code
from dduomq.wire import native
from dduomq.wire.batch import iter_headers
from dduomq.wire.native_groups import (
    CommitOffsets,
    CommitPart,
    DeleteGroup,
    DescribeGroup,
    FetchCommitted,
    ForgetOffsets,
    GroupDescription,
    GroupListing,
    GroupOffsets,
    GroupsListed,
    ListGroups,
    OffsetsCommitted,
    RemoveMember,
)

AGAIN_S = 0.1
WATCH_MS = 30_000


@attrs.frozen
class PartitionLag:
    """How far a group is behind in one partition.

    `committed` is None where the group has committed nothing: then all that is there is still to be read. `seconds`:
    the age of the oldest batch that is still to be read, 0 when there is none. `member_id`: None where nobody reads, or
    several do.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    records: int
    seconds: float
    member_id: str | None


@attrs.frozen
class GroupChange:
    """What has changed in a group since the last look. Members by id; places are (topic, partition)."""

    description: GroupDescription
    joined: tuple[str, ...]
    left: tuple[str, ...]
    assigned: Mapping[str, tuple[tuple[str, int], ...]]
    revoked: Mapping[str, tuple[tuple[str, int], ...]]


class GroupAdmin(QueueAdmin):
    """What an operator's tool needs of groups; every method raises the broker's error."""

    async def list_groups(self) -> list[GroupListing]:
        return list((await self._patiently(ListGroups(), GroupsListed)).groups)

    async def describe_group(self, name: str) -> GroupDescription:
        """Kind, state, epoch and members with what they read. Raises `GroupNotFound`."""
        return await self._patiently(DescribeGroup(name), GroupDescription)

    async def watch_group(self, name: str) -> AsyncIterator[GroupChange]:
        """For ever: what is so, then each change as it happens. Raises `GroupNotFound` when the group is gone."""
        before = GroupDescription(name, "", "", -1, "", ())
        while True:
            body = DescribeGroup(name, before.version, 0 if before.epoch < 0 else WATCH_MS)
            now = await self._patiently(body, GroupDescription, WATCH_MS + TIMEOUT_MS)
            change = _change(before, now)
            if change is not None:
                yield change
            before = now

    async def group_offsets(self, name: str) -> dict[tuple[str, int], int]:
        """(topic, partition) to the offset of the next record that the group will read; of a share group, to the
        first one that is not done.
        """
        found = await self._patiently(FetchCommitted(name), GroupOffsets)
        if not found.offsets:
            return {place: part.start for place, part in (await self.queue_parts(name)).items()}
        return {(part.topic, part.partition): part.offset for part in found.offsets}

    async def delete_group(self, name: str) -> None:
        """Forget a group without members, and its offsets."""
        await self._patiently(DeleteGroup(name), native.Done)

    async def delete_group_offsets(self, name: str, topic: str, partitions: Sequence[int] | None = None) -> None:
        """Forget how far a group is in a topic that none of its members reads."""
        if await self.queue_parts(name):
            await self.move_queue(name, topic, dict.fromkeys(partitions or await self._partitions(topic)))
            return
        await self._patiently(
            ForgetOffsets(name, topic, None if partitions is None else tuple(partitions)), native.Done
        )

    async def remove_member(self, name: str, member_id: str) -> None:
        """Put a member out of its group; what it read goes to the others."""
        await self._patiently(RemoveMember(name, member_id), native.Done)

    # --- lag ----------------------------------------------------------------------------------------

    async def group_lag(self, name: str) -> list[PartitionLag]:
        """Each partition that the group has committed or that a member reads. Raises `GroupNotFound`."""
        described = await self.describe_group(name)
        offsets = await self.group_offsets(name)
        queues = await self.queue_parts(name) if described.kind == SHARE else {}
        readers = {
            (part.topic, at): None if described.kind == SHARE else member.member_id
            for member in described.members for part in member.assignment for at in part.partitions
        }  # fmt: skip
        places = sorted({*offsets, *readers})
        ends = await self._offsets(places, native.LATEST)
        starts = await self._offsets([place for place in places if place not in offsets], native.EARLIEST)
        found = []
        for topic, partition in places:
            place = (topic, partition)
            committed, end = offsets.get(place), ends[place]
            next_offset = starts[place] if committed is None else committed
            behind = max(0, end - next_offset)
            if place in queues:  # records behind the first one may be done
                queue = queues[place]
                behind = max(0, end - queue.end) + queue.acquired + queue.waiting
            seconds = await self._age_s(topic, partition, next_offset) if behind else 0.0
            found.append(PartitionLag(topic, partition, committed, end, behind, seconds, readers.get(place)))
        return found

    async def watch_lag(self, name: str, interval: float = 1.0) -> AsyncIterator[list[PartitionLag]]:
        """For ever: `group_lag`, every so many seconds."""
        while True:
            yield await self.group_lag(name)
            await anyio.sleep(interval)

    async def _offsets(self, places: Sequence[tuple[str, int]], timestamp: int) -> dict[tuple[str, int], int]:
        if not places:
            return {}
        queries = tuple(native.OffsetQuery(topic, partition, timestamp) for topic, partition in places)
        plain, _ = await self._ask(native.ListOffsets(native.Isolation.READ_COMMITTED, queries), TIMEOUT_MS)
        found = native.from_plain(native.OffsetsFound, plain).found
        for place, part in zip(places, found, strict=True):
            if part.code:
                raise from_code(part.code, f"{place[0]}-{place[1]}: {part.message or ''}")
        return {place: part.offset for place, part in zip(places, found, strict=True)}

    async def _age_s(self, topic: str, partition: int, offset: int) -> float:
        """How old the batch with that offset, or the next one there is, is."""
        part = native.FetchPart(topic, partition, offset, 1)
        plain, payload = await self._ask(native.Fetch(0, 1, 1, native.Isolation.READ_COMMITTED, (part,)), TIMEOUT_MS)
        if native.from_plain(native.Fetched, plain).parts[0].code:
            return 0.0  # it is gone: retention was faster than the group
        for _, header in iter_headers(payload):
            return max(0.0, (self._wall_ms() - header.base_timestamp) / 1000)
        return 0.0

    # --- putting it right ---------------------------------------------------------------------------

    async def reset_group(
        self,
        name: str,
        topic: str,
        to: Start,
        *,
        partitions: Sequence[int] | None = None,
        dry_run: bool = False,
    ) -> dict[int, tuple[int | None, int]]:
        """Set where the group goes on: an offset, 'earliest', 'latest' or a datetime; partition to (before, after).

        An offset out of bounds is brought to the nearest one there is. Raises `GroupNotEmpty` while there are members.
        """

        async def at(partition: int, _held: int | None) -> int:
            return await find_offset(self._ask, topic, partition, to, TIMEOUT_MS)

        return await self._move(name, topic, at, partitions, dry_run=dry_run)

    async def shift_group(
        self, name: str, topic: str, by: int, *, partitions: Sequence[int] | None = None, dry_run: bool = False
    ) -> dict[int, tuple[int | None, int]]:
        """Move where the group goes on by so many records, back or forward; see `reset_group`.

        Partitions of which it has committed nothing stay as they are; one that is asked for raises `UsageError`.
        """

        async def at(partition: int, held: int | None) -> int | None:
            if held is None and partitions is not None:
                raise UsageError(f"group {name!r} has committed nothing in {topic}-{partition}: give an offset")
            return None if held is None else held + by

        return await self._move(name, topic, at, partitions, dry_run=dry_run)

    async def _move(
        self,
        name: str,
        topic: str,
        to: Callable[[int, int | None], Awaitable[int | None]],
        partitions: Sequence[int] | None,
        *,
        dry_run: bool,
    ) -> dict[int, tuple[int | None, int]]:
        kind = await self._check_empty(name)
        places = [(topic, at) for at in (await self._partitions(topic) if partitions is None else partitions)]
        starts = await self._offsets(places, native.EARLIEST)
        ends = await self._offsets(places, native.LATEST)
        held = await self.group_offsets(name)
        moves: dict[int, tuple[int | None, int]] = {}
        for place in places:
            before = held.get(place)
            wanted = await to(place[1], before)
            if wanted is not None:
                moves[place[1]] = (before, min(max(wanted, starts[place]), ends[place]))
        if not dry_run and moves and kind == SHARE:
            await self.move_queue(name, topic, {partition: after for partition, (_, after) in moves.items()})
        elif not dry_run and moves:
            parts = tuple(CommitPart(topic, partition, after) for partition, (_, after) in moves.items())
            committed = await self._patiently(CommitOffsets(name, "", -1, parts, rewind=True), OffsetsCommitted)
            for part, result in zip(parts, committed.parts, strict=True):
                if result.code:
                    raise from_code(result.code, f"{topic}-{part.partition}: {result.message or ''}")
        return moves

    async def _check_empty(self, name: str) -> str | None:
        """Its kind, if there is such a group. Raises `GroupNotEmpty`."""
        for group in await self.list_groups():
            if group.name == name:
                if group.members:
                    raise GroupNotEmpty(f"group {name!r} has {group.members} members; stop them first")
                return group.kind
        return None

    async def _partitions(self, topic: str) -> list[int]:
        plain, _ = await self._ask(native.Metadata((topic,)), TIMEOUT_MS)
        found = native.from_plain(native.MetadataAnswer, plain).topics[0]
        if found.code:
            raise from_code(found.code, found.message or "")
        return [part.partition for part in found.partitions]


def _places(description: GroupDescription) -> dict[str, set[tuple[str, int]]]:
    return {
        member.member_id: {(part.topic, at) for part in member.assignment for at in part.partitions}
        for member in description.members
    }


def _change(before: GroupDescription, now: GroupDescription) -> GroupChange | None:
    """None if members and what they read are as before."""
    old, new = _places(before), _places(now)
    assigned = {m: tuple(sorted(held - old.get(m, set()))) for m, held in new.items() if held - old.get(m, set())}
    revoked = {m: tuple(sorted(held - new.get(m, set()))) for m, held in old.items() if held - new.get(m, set())}
    joined, left = tuple(m for m in new if m not in old), tuple(m for m in old if m not in new)
    if before.epoch >= 0 and not (assigned or revoked or joined or left):
        return None
    return GroupChange(now, joined, left, assigned, revoked)
