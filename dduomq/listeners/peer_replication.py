"""The leader's side of replication: a follower's fetch over many partitions, answered as soon as one has news.

Always true: a follower is known by its connection, not by what it says; every lease that a partition gave is closed;
what is sent is whole batches, as long as was promised, or an error.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import trio

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.partition_messages import FetchPlan, Watcher
from dduomq.actors.replica_messages import ReplicaFetch
from dduomq.errors import CorruptMessage, DduomqError, LeaderNotAvailable
from dduomq.limits import FETCH_WAIT_MS_MAX, REPLICA_FETCH_BYTES_MAX
from dduomq.listeners.connection import Chunk, FilePart
from dduomq.listeners.fetch import INLINE_READ_BYTES_MAX, make_resident, within
from dduomq.ports import Clock
from dduomq.wire.peer_replication import PeerFetch, PeerFetched, PeerFetchedPart, PeerFetchPart

Found: TypeAlias = FetchPlan | DduomqError
FindPartition: TypeAlias = Callable[[str, int], Mailbox]


class Asker(Protocol):
    """The node that asks, as its connection has proved it."""

    @property
    def node_id(self) -> int: ...


class ReplicaServer:
    """Answers `PeerFetch`. `find(topic_id, partition)` raises `UnknownTopicOrPartition`."""

    def __init__(self, find: FindPartition, clock: Clock, disk: DiskClient) -> None:
        self._find = find
        self._clock = clock
        self._disk = disk

    async def fetch(
        self, asker: Asker, body: PeerFetch, _payload: memoryview
    ) -> tuple[PeerFetched, Sequence[Chunk]]:  # fmt: skip
        """The answer and its payload, after `max_wait_ms` at the latest."""
        deadline = self._clock.monotonic() + min(max(body.max_wait_ms, 0), FETCH_WAIT_MS_MAX) / 1000
        while True:
            watcher = Watcher()
            try:
                found = await self._ask_all(asker.node_id, body, watcher)
                waiting = deadline - self._clock.monotonic()
                if waiting <= 0 or any(_is_news(item, part) for item, part in zip(found, body.parts, strict=True)):
                    break
                with trio.move_on_after(waiting):
                    await watcher.wait()
            finally:
                watcher.gone = True
        return await self._read_all(found, body.max_bytes)

    async def _ask_all(self, node_id: int, body: PeerFetch, watcher: Watcher) -> list[Found]:
        """Each part's plan or error. All are asked before the first is awaited."""
        replies: list[Reply[FetchPlan]] = []
        found: list[Found] = []
        try:
            for part in body.parts:
                reply: Reply[FetchPlan] = Reply()
                replies.append(reply)
                try:
                    mailbox = self._find(part.topic_id, part.partition)
                except DduomqError as error:
                    reply.fail(error)
                    continue
                await mailbox.put(
                    ReplicaFetch(
                        offset=part.offset,
                        max_bytes=max(0, min(part.max_bytes, body.max_bytes, REPLICA_FETCH_BYTES_MAX)),
                        leader_epoch=part.leader_epoch,
                        watcher=watcher,
                        last_fetched_epoch=part.last_epoch,
                        follower=node_id,
                        follower_epoch=body.node_epoch,
                        log_start_offset=part.log_start_offset,
                        reply=reply,
                    )
                )
            for reply in replies:
                try:
                    found.append(await reply.wait())
                except DduomqError as error:
                    found.append(error)
        except BaseException:
            _close_all(found)
            for reply in replies[len(found) :]:
                reply.abandon()
            raise
        return found

    async def _read_all(self, found: list[Found], max_bytes: int) -> tuple[PeerFetched, list[Chunk]]:
        """What was planned, ready to be sent. The leases of what goes as a file go with it."""
        found = within(found, min(max_bytes, REPLICA_FETCH_BYTES_MAX))
        try:
            for item in found:
                if isinstance(item, FetchPlan) and item.lease is not None and not item.is_resident:
                    await make_resident(self._disk, item.lease, item.position, item.size)
        except BaseException:
            _close_all(found)
            raise
        parts: list[PeerFetchedPart] = []
        chunks: list[Chunk] = []
        for item in found:
            try:
                plan, chunk = _take(item)
            except DduomqError as error:
                parts.append(PeerFetchedPart(error.code, error.message))
                continue
            if chunk is not None:
                chunks.append(chunk)
            epoch, end = plan.diverging or (-1, -1)
            parts.append(
                PeerFetchedPart(
                    0, None, plan.high_watermark, plan.log_start_offset, plan.log_end_offset, plan.size, epoch, end
                )
            )
        return PeerFetched(tuple(parts)), chunks


def _take(found: Found) -> tuple[FetchPlan, Chunk | None]:
    """A plan, and what is to be sent of it. Raises the error that is there instead, `CorruptMessage` and the like.

    What is committed is never cut, so it may go from the file whenever the socket takes it. What is above the high
    watermark is read now, and counts only if this leadership still lasts then: behind it the log may be cut, and
    records of another past, older than this leader's even, may lie at that place.
    """
    if isinstance(found, DduomqError):
        raise found
    if found.lease is None:
        return found, None
    if found.next_offset <= found.high_watermark and found.size > INLINE_READ_BYTES_MAX:
        return found, FilePart(found.lease, found.position, found.size)
    try:
        data = found.lease.read(found.position, found.size)
    except OSError as error:
        raise CorruptMessage(f"the log can't be read: {error.strerror}") from error
    finally:
        found.close()
    if len(data) != found.size or not found.is_current():
        raise LeaderNotAvailable("the log has just been cut; fetch again")
    return found, data


def _is_news(item: Found, part: PeerFetchPart) -> bool:
    """Whether a follower has something to do about it."""
    if isinstance(item, DduomqError) or item.size or item.diverging is not None:
        return True
    is_inside = item.log_start_offset <= part.offset <= item.log_end_offset
    return not is_inside or item.log_start_offset > part.log_start_offset


def _close_all(found: list[Found]) -> None:
    for item in found:
        if isinstance(item, FetchPlan):
            item.close()
